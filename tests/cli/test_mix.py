"""mix makes one steer of several, and measures how they interfere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lmsteer.steer.files import load_steer, save_steer


def test_a_mix_is_saved_as_one_steer(run, lm):
    status, out, err = run("mix", "one=2", "two=-1", "--out", "both", "--rank", "2", "--label", "much of one", "--json")
    assert status == 0
    assert "saved to both" in err
    report = json.loads(out)
    assert report["strengths"] == {"one": 2, "two": -1}
    assert report["cosines"][0][0] == pytest.approx(1)
    both = load_steer("both")
    assert (both.rank, both.card.name, both.card.label) == (2, "both", "much of one")
    status, out, _ = run("mix", "one=1", "--orthogonal-to", "two", "--out", "apart", "--name", "alone")
    assert status == 0
    assert "how alike" in out
    assert load_steer("apart").card.name == "alone"
    assert load_steer("apart").rank == 6
    status, out, _ = run("mix", "one=1", "two=1", "--decorrelate", "--evaluate", "--prompts", "prompts.txt")
    assert status == 0
    assert "share kept in the mix" in out
    decorrelated = json.loads(run("mix", "one=1", "two=1", "--decorrelate", "--json")[1])["strengths"]
    assert decorrelated["one"] != 1
    report = json.loads(run("mix", "one=1", "two=1", "--evaluate", "--prompts", "prompts.txt", "--json")[1])
    assert report["continuations"] == 12
    assert set(report["effects"]["one"]) == {"alone", "mixed", "standard_error", "kept"}


def test_a_safe_range_is_not_carried_over(run, lm, tmp_path):
    steer = load_steer("steers/one")
    save_steer(
        replace(steer, card=replace(steer.card, safe_range=(-3.0, 4.0), calibration={"max_perplexity_ratio": 1.5})),
        "steers/one",
    )
    run("mix", "one=1", "--orthogonal-to", "two", "--out", "apart")
    assert load_steer("apart").card.safe_range is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix", "one=1,2", "two=1"], "one strength of each"),
        (["mix", "one=1", "nosuch=1"], "unknown steer 'nosuch'"),
        (["mix", "one=1", "two=1", "--rank", "2"], "give both"),
        (["mix", "one=1", "two=1", "--out", "x", "--rank", "0"], "rank"),
        (["mix", "one=1", "--evaluate"], "two steers or more"),
        (["mix", "one=1", "two=1", "--label", "x"], "give both"),
        (["mix", "one=1", "two=1", "--prompts", "prompts.txt"], "--evaluate"),
        (["mix", "one=1", "shift=1", "--out", "x"], "of one form"),
        (["mix", "one=1", "one=2"], "named twice"),
        (["mix", "one=1", "--orthogonal-to", "one"], "does nothing that one do not"),
        (["mix", "one=1", "two=1", "--out", "letters.jsonl"], "holds no steer"),
        (["mix", "one=1", "--orthogonal-to", "other"], "was fitted on"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(check_refused, arguments, message):
    check_refused(arguments, message)
