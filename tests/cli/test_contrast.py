"""fit from a description: what is refused, and that the steer is saved with its safe range."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.steer.files import load_steer
from lmsteer.util.distributed import Processes

OWN = 'name = "abc"\nlabel = "early letters"\npositive = "abc"\nnegative = "xyz"\n'
PAIR = ("--positive", "abc", "--negative", "xyz")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--positive", "warm"), "give both"),
        (("--negative", "cold"), "give both"),
        ((*PAIR, "--describe", "warm"), "described in one way"),
        (("--describe", "warm", "--prompt", "letters.jsonl"), "described in one way"),
        (("--describe", " "), "positive end is empty"),
        (("--positive", "warm", "--negative", ""), "negative end is empty"),
        (("--positive", "warm", "--negative", "warm "), "same description"),
        (("--prompt", "missing.txt"), "missing.txt"),
        (("--wish", "shortness"), "no wish 'shortness': there are asking-back"),
        (("--wish", "brevity", "--describe", "warm"), "described in one way"),
        (("--wish", "own.toml"), "unknown scorer 'magic'"),
        (("letters.jsonl", *PAIR), "DATA does not go with one"),
        ((*PAIR, "--label-map", "a=1", "--limit", "5"), "--label-map, --limit does not go with one"),
        (("letters.jsonl", "--num-texts", "8"), "goes with a description"),
        ((*PAIR, "--sites", "layers.9"), "layers.0 to layers.1"),
        ((*PAIR, "--sites", "layers.0.mlp.up_proj"), "does not add to the residual stream"),
        ((*PAIR, "--sites", "head,"), "must be a list of names"),
    ],
)
def test_descriptions_that_cannot_be_used_are_refused(run, args, reason):
    Path("own.toml").write_text(f'{OWN}scorer = "magic"')
    status, _, err = run("fit", "--name", "x", *args)
    assert status == 2
    assert reason in " ".join(err.split())
    assert not Path("steers/x").exists()


def test_a_description_becomes_a_steer_with_a_safe_range(run):
    status, out, _ = run("fit", *PAIR, "--name", "abc", "--num-texts", "4", "--json")
    assert status == 0
    card = load_steer("steers/abc").card
    assert card.data["contrast"]["positive"] == "abc"
    assert list(card.safe_range) == json.loads(out)["card"]["safe_range"]
    assert run("verify", "abc")[0] == 0


def test_a_description_may_act_inside_the_model(run):
    status, out, _ = run("fit", *PAIR, "--name", "abc", "--num-texts", "4", "--sites", "layers.0, head", "--json")
    assert status == 0
    assert set(json.loads(out)["ranks"]) == {"head", "layers.0"}
    assert load_steer("steers/abc").card.safe_range
    assert run("verify", "abc")[0] == 0


def test_ctrl_c_while_strengths_are_tried_says_how_to_go_on(run, monkeypatch):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmsteer.calibrate", stopped)
    status, _, err = run("fit", *PAIR, "--name", "abc", "--num-texts", "4")
    assert status == 130
    assert "steers/abc --model " in " ".join(err.split())
    assert load_steer("steers/abc").card.safe_range is None


def test_a_description_is_for_one_process(run, monkeypatch):
    monkeypatch.setattr(Processes, "here", lambda: Processes(0, 2))
    status, _, err = run("fit", *PAIR, "--name", "abc")
    assert status == 2
    assert "for one process" in " ".join(err.split())


@pytest.mark.parametrize(
    ("limit", "doubt"), [("_FAINT", "hardly follows the description"), ("_LOST", "not the same from text to text")]
)
def test_a_description_that_is_hardly_followed_is_told_with_json_too(run, monkeypatch, limit, doubt):
    monkeypatch.setattr("lmsteer.cli.contrast._FAINT", -1.0)
    monkeypatch.setattr(f"lmsteer.cli.contrast.{limit}", 1e6)
    status, out, err = run("fit", *PAIR, "--name", "abc", "--num-texts", "4", "--json")
    assert status == 0
    assert doubt in err
    assert json.loads(out)["ranks"]["head"] > 0


def test_the_empty_prompt_file_is_refused(run):
    Path("system.txt").write_text("\n")
    status, _, err = run("fit", "--prompt", "system.txt", "--name", "x")
    assert status == 2
    assert "system prompt is empty" in err


def test_a_wish_names_the_steer_and_scores_the_strengths_that_are_tried(run):
    Path("own.toml").write_text(f'{OWN}scorer = "words"\n')
    status, out, _ = run("fit", "--wish", "own.toml", "--num-texts", "4")
    assert status == 0
    assert "abc=50%" in out
    card = load_steer("steers/abc").card
    assert (card.name, card.label, card.data["contrast"]["negative"]) == ("abc", "early letters", "xyz")
    assert all(trial["score"] >= 0 for trial in card.calibration["curve"])
    assert run("fit", "--wish", "own.toml", "--num-texts", "4", "--name", "other", "--label", "letters")[0] == 0
    assert load_steer("steers/other").card.label == "letters"


def test_a_steer_without_a_name_is_refused(run):
    status, _, err = run("fit", "letters.jsonl")
    assert status == 2
    assert "give it one with --name" in err
