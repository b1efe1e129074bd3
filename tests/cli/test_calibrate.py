"""calibrate records the safe strengths on a steer's card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.steer.files import load_steer, save_steer
from tiny import random_steer


def test_calibration_is_kept_on_the_card_and_serves_percents(run, lm):
    assert run("generate", "abc", "--steer", "one=50%")[0] == 2
    arguments = [
        "calibrate",
        "one",
        "--max-perplexity-ratio",
        "1.3",
        "--prompts",
        "prompts.txt",
        "--num-samples",
        "2",
        "--max-new-tokens",
        "8",
    ]
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
    status, out, _ = run(*arguments, "--scorer", "sentiment-vader", "--target", "0.5", "--out", "elsewhere")
    assert status == 0
    assert "The target 0.5 is reached at" in out
    assert load_steer("elsewhere").card.calibration["max_perplexity_ratio"] == 1.3


def test_what_is_kept_bounds_the_range(run, lm):
    pairs = [{"good": "abcd" * n, "bad": "dcba" * n} for n in range(1, 9)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    few = ["calibrate", "one", "--prompts", "prompts.txt", "--num-samples", "1", "--max-new-tokens", "4"]
    status, out, err = run(*few, "--max-perplexity-ratio", "1000", "--keep", "pairs.jsonl:1", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["kept"] == 1
    (base,) = (trial for trial in found["trials"] if not trial["strength"])
    for trial in found["trials"]:
        if found["low"] <= trial["strength"] <= found["high"]:
            assert trial["accuracy"] >= base["accuracy"]
    calibration = load_steer("steers/one").card.calibration
    assert calibration["kept"] == 1
    assert {trial["accuracy"] for trial in calibration["curve"]} == {round(t["accuracy"], 4) for t in found["trials"]}
    assert "pairs right" in run(*few, "--keep", "pairs.jsonl:0.5")[1]
    assert "pairs right" not in run(*few)[1]


def test_a_range_within_limits_is_shown_and_not_recorded(run, lm):
    few = ["calibrate", "one", "--prompts", "prompts.txt", "--num-samples", "1", "--max-new-tokens", "4", "--kl", "0.1"]
    before = load_steer("steers/one").card
    status, out, _ = run(*few, "--json")
    assert status == 0
    assert json.loads(out)["high"] > 0
    assert load_steer("steers/one").card == before
    status, _, err = run(*few, "--out", "elsewhere")
    assert status == 2
    assert "a range within limits (--kl) is not recorded" in err


def test_a_steer_that_ships_is_calibrated_in_a_copy(run, lm, tmp_path, monkeypatch):
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    save_steer(random_steer(lm), tmp_path / "shipped" / "style")
    assert run("calibrate", "style", "--prompts", "prompts.txt", "--num-samples", "1", "--max-new-tokens", "4")[0] == 0
    assert load_steer(tmp_path / "shipped" / "style").card.safe_range is None
    assert load_steer("steers/style").card.safe_range is not None


def test_a_steer_of_the_same_name_is_not_overwritten_by_one_that_ships(run, lm, tmp_path, monkeypatch):
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    save_steer(random_steer(lm, seed=7), tmp_path / "shipped" / "one")
    for folder in (str(tmp_path / "shipped" / "one"), "shipped/one"):
        status, _, err = run(
            "calibrate", folder, "--prompts", "prompts.txt", "--num-samples", "1", "--max-new-tokens", "4"
        )
        assert status == 2
        assert "--out" in err
    assert load_steer(tmp_path / "shipped" / "one").card.safe_range is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["calibrate", "one", "--max-perplexity-ratio", "1"],
            "Invalid value for '--max-perplexity-ratio': must be more than 1, not 1",
        ),
        (["calibrate", "one", "--target", "0.5"], "give both"),
        (["calibrate", "one", "--keep", "pairs.jsonl"], "write PAIRS:SHARE"),
        (["calibrate", "one", "--keep", "pairs.jsonl:most"], "write PAIRS:SHARE"),
        (["calibrate", "one", "--keep", "gone.jsonl:0.9"], "gone.jsonl"),
        (["calibrate", "one", "--keep", "letters.jsonl:0.9"], "'good'"),
        (["calibrate", "one", "--scorer", "magic", "--target", "0.5"], "unknown scorer 'magic'"),
        (["calibrate", "other"], "was fitted on"),
        (["calibrate", "one", "--scorer", "sentiment-vader", "--target", "7"], "lie between 0 and 1, so --target must"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(check_refused, arguments, message):
    check_refused(arguments, message)
