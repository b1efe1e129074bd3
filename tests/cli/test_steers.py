"""transfer, mix and calibrate: steers of steers, and what is kept on their cards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from tiny import random_steer, styled, tiny_lm


@pytest.fixture
def lm(tiny_folder):
    """The tiny model as the command line loads it, with two steers in its folder of steers."""
    lm = load(tiny_folder)
    for seed, name in enumerate(("one", "two")):
        save_steer(random_steer(lm, seed=seed, name=name), f"steers/{name}")
    Path("prompts.txt").write_text("abc\nxyz\n12\n")
    return lm


def test_a_steer_is_carried_to_another_model(run, lm, tmp_path):
    other = tiny_lm("gpt_neox")
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    status, out, _ = run("transfer", "one", "--to", "other", "--out", "there", "--data", "letters.jsonl", "--json")
    assert status == 0
    assert json.loads(out)["card"]["held_out"]["texts"] == 120
    moved = load_steer("there")
    assert (moved.card.name, moved.card.base) == ("one", "other")
    assert run("generate", "abc", "--steer", "there=2")[0] == 2
    Path("texts.txt").write_text("\n".join(text.text for text in styled(40)))
    status, out, _ = run("transfer", "one", "--to", "other", "--out", "there", "--texts", "texts.txt", "--map", "ridge")
    assert status == 0
    assert "Steer one carried to other" in out
    assert load_steer("there").card.fit["map"] == "ridge"
    assert load_steer("there").card.fit["pairs"] < moved.card.fit["pairs"] / 10


def test_a_mix_is_saved_as_one_steer(run, lm):
    status, out, err = run("mix", "one=2", "two=-1", "--out", "both", "--rank", "2", "--label", "much of one", "--json")
    assert status == 0
    assert "saved to both" in err
    told = json.loads(out)
    assert told["strengths"] == {"one": 2, "two": -1}
    assert told["cosines"][0][0] == pytest.approx(1)
    both = load_steer("both")
    assert (both.rank, both.card.name, both.card.label) == (2, "both", "much of one")
    status, out, _ = run("mix", "one=1", "--against", "two", "--out", "apart", "--name", "alone")
    assert status == 0
    assert "how alike" in out
    assert load_steer("apart").card.name == "alone"
    assert load_steer("apart").rank == 6
    status, out, _ = run("mix", "one=1", "two=1", "--balance", "--measure", "--file", "prompts.txt")
    assert status == 0
    assert "kept of its own" in out
    balanced = json.loads(run("mix", "one=1", "two=1", "--balance", "--json")[1])["strengths"]
    assert balanced["one"] != 1
    told = json.loads(run("mix", "one=1", "two=1", "--measure", "--file", "prompts.txt", "--json")[1])
    assert told["continuations"] == 12
    assert set(told["effects"]["one"]) == {"alone", "in the mix", "standard error", "kept"}


def test_calibration_is_kept_on_the_card_and_serves_percents(run, lm):
    assert run("generate", "abc", "--steer", "one=50%")[0] == 2
    arguments = ["calibrate", "one", "--ratio", "1.3", "--file", "prompts.txt", "--n", "2", "--max-new-tokens", "8"]
    status, out, _ = run(*arguments, "--json")
    assert status == 0
    found, card = json.loads(out), load_steer("steers/one").card
    assert card.safe_range == (found["low"], found["high"])
    assert found["high"] > 0
    status, out, _ = run("generate", "abc", "--steer", "one=-100%,50%,auto", "--json")
    assert [g["strengths"]["one"] for g in json.loads(out)["generations"]] == [
        found["low"],
        found["high"] / 2,
        found["high"],
    ]
    status, _, err = run("generate", "abc", "--steer", "one=99,0,-98.5")
    assert status == 0
    assert "one=-98.5, +99 lies outside the safe range" in err
    assert "safe" not in run("generate", "abc", "--steer", "one=50%")[2]
    status, out, _ = run(*arguments, "--scorer", "sentiment-vader", "--level", "0.5", "--out", "elsewhere")
    assert status == 0
    assert "A mean score of 0.5 is reached by" in out
    assert load_steer("elsewhere").card.calibration["max_perplexity_ratio"] == 1.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix", "one=1,2", "two=1"], "one strength of each"),
        (["mix", "one=1", "nosuch=1"], "unknown steer 'nosuch'"),
        (["mix", "one=1", "two=1", "--rank", "2"], "give both"),
        (["mix", "one=1", "two=1", "--out", "x", "--rank", "0"], "rank"),
        (["mix", "one=1", "--measure"], "two steers or more"),
        (["mix", "one=1", "two=1", "--label", "x"], "give both"),
        (["mix", "one=1", "two=1", "--file", "prompts.txt"], "--measure"),
        (["mix", "one=1", "shift=1", "--out", "x"], "of one form"),
        (["mix", "one=1", "one=2"], "named twice"),
        (["mix", "one=1", "--against", "one"], "does nothing that one do not"),
        (["mix", "one=1", "two=1", "--out", "letters.jsonl"], "holds no steer"),
        (["transfer", "one", "--to", "./nowhere", "--out", "x"], "no such file or folder"),
        (["transfer", "one", "--to", "smollm2", "--map", "magic", "--out", "x"], "gradient, ridge, procrustes"),
        (["transfer", "nosuch", "--to", "smollm2", "--out", "x"], "unknown steer"),
        (["calibrate", "one", "--ratio", "1"], "number above 1"),
        (["calibrate", "one", "--level", "0.5"], "give both"),
        (["calibrate", "one", "--scorer", "magic", "--level", "0.5"], "unknown scorer 'magic'"),
        (["calibrate", "other"], "was fitted on"),
        (["calibrate", "one", "--scorer", "sentiment-vader", "--level", "7"], "from 0 to 1"),
        (["mix", "one=1", "--against", "other"], "was fitted on"),
        (["transfer", "one", "--to", "smollm2", "--out", "x", "--label-map", "a=1"], "of --data: give both"),
        (["transfer", "one", "--to", "smollm2", "--out", "x", "--data", "zeros.jsonl"], "is 0: a dimension needs"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, lm, arguments, message, monkeypatch):
    monkeypatch.setattr("lmsteer.model.sources.resolve.fetch_packaged", lambda name: lm_folder)
    lm_folder = Path(lm.model.config._name_or_path)
    save_steer(random_steer(lm, "add", name="shift"), "steers/shift")
    save_steer(random_steer(tiny_lm("qwen3")), "other")
    Path("zeros.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 0}\n')
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not Path("x").exists()


def test_a_steer_that_ships_is_calibrated_in_a_copy(run, lm, tmp_path, monkeypatch):
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    save_steer(random_steer(lm), tmp_path / "shipped" / "style")
    assert run("calibrate", "style", "--file", "prompts.txt", "--n", "1", "--max-new-tokens", "4")[0] == 0
    assert load_steer(tmp_path / "shipped" / "style").card.safe_range is None
    assert load_steer("steers/style").card.safe_range is not None


def test_a_steer_of_the_same_name_is_not_overwritten_by_one_that_ships(run, lm, tmp_path, monkeypatch):
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    save_steer(random_steer(lm, seed=7), tmp_path / "shipped" / "one")
    for folder in (str(tmp_path / "shipped" / "one"), "shipped/one"):
        status, _, err = run("calibrate", folder, "--file", "prompts.txt", "--n", "1", "--max-new-tokens", "4")
        assert status == 2
        assert "--out" in err
    assert load_steer(tmp_path / "shipped" / "one").card.safe_range is None


def test_a_safe_range_is_not_carried_over(run, lm, tmp_path):
    steer = load_steer("steers/one")
    save_steer(
        replace(steer, card=replace(steer.card, safe_range=(-3.0, 4.0), calibration={"max_perplexity_ratio": 1.5})),
        "steers/one",
    )
    run("mix", "one=1", "--against", "two", "--out", "apart")
    assert load_steer("apart").card.safe_range is None
