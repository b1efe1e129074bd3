"""evaluate writes a folder that can be read, shown and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer

ARGUMENTS = ["evaluate", "prompts.txt", "--scorer", "sentiment-vader", "--num-samples", "2", "--max-new-tokens", "5"]


@pytest.fixture(autouse=True)
def prompts(tiny_folder):
    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    Path("prompts.txt").write_text("abc\nxyz\n12\n")


def test_evaluate(run, tiny_folder):
    more = [
        "--steer",
        "letters=-2,2",
        "--baseline",
        "words",
        "--perplexity-model",
        str(tiny_folder),
        "--out",
        "e",
        "--limit",
        "2",
        "--kl",
        "0.5",
    ]
    status, out, err = run(*ARGUMENTS, *more)
    assert status == 0
    assert "letters=+2" in out
    assert "Scorer sentiment-vader: right on" in out
    assert "written to e" in err
    assert "words +4" in Path("e/report.html").read_text(encoding="utf-8")
    assert "<svg" in Path("e/curves.svg").read_text(encoding="utf-8")
    status, out, _ = run(*ARGUMENTS, *more, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["metadata"]["prompts"] == "2 of prompts.txt"
    assert found["metadata"]["sampling"].endswith("seed 0, kl 0.5")
    assert [condition["name"] for condition in found["conditions"]][:3] == ["unsteered", "letters=-2", "letters=+2"]
    assert found["conditions"][0]["continuations"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steer", "letters=x"], "cannot read 'letters=x'"),
        (["--steer", "nosuch=1"], "unknown steer"),
        (["--steer", "letters=1", "--baseline", "magic"], "'prompting', 'words', 'best-of-n'"),
        (["--steer", "letters=1", "--baseline", "prompting", "--negative-prompt", "Bad."], "two instructions"),
        (["--steer", "letters=1", "--scorer", "magic"], "unknown scorer"),
        (["--steer", "letters=1", "--plausible", "1"], "plausible must be at least 0 and below 1"),
        (["--steer", "letters=1", "--limit", "0"], "Invalid value for '--limit'"),
        (["--steer", "letters=1", "--num-samples", "0"], "Invalid value for '--num-samples'"),
        (["--steer", "letters=1", "--out", "prompts.txt"], "prompts.txt"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, arguments, message):
    status, out, err = run(*ARGUMENTS, "--out", "e", *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out
