"""The commands together: a steer is made, used and proved; bad input ends in a message and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.cli import app
from lmsteer.steer.files import save_steer
from tiny import random_steer, tiny_lm


def test_fit_generate_verify(run):
    status, out, _ = run("fit", "letters.jsonl", "--name", "letters", "--label", "early letters", "--json")
    assert status == 0
    assert json.loads(out)["card"]["label"] == "early letters"
    status, out, _ = run("generate", "abc", "--steer", "letters=-3,0,3", "--num-samples", "2", "--json")
    assert status == 0
    assert [g["strengths"]["letters"] for g in json.loads(out)["generations"]] == [-3, -3, 0, 0, 3, 3]
    status, out, _ = run("verify", "letters", "--json")
    assert status == 0
    assert json.loads(out)["held_out"]["sign_accuracy"] > 0.9
    status, out, _ = run("verify", "letters")
    assert status == 0
    assert "ok" in out
    status, out, _ = run("generate", "abc", "[b]x", "--steer", "letters=1")
    assert status == 0
    assert "[b]x" in out


BAD = {
    "limit": (["fit", "letters.jsonl", "--name", "x", "--limit", "-3"], "limit must be"),
    "max tokens": (["fit", "letters.jsonl", "--name", "x", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
    "steps": (
        ["fit", "letters.jsonl", "--name", "x", "--method", "gradient", "--steps", "0"],
        "Invalid value for '--steps'",
    ),
    "batch size": (["generate", "x", "--batch-size", "-1"], "Invalid value for '--batch-size'"),
    "out is a file": (["fit", "letters.jsonl", "--name", "x", "--out", "letters.jsonl"], "holds no steer"),
    "out is full": (["fit", "letters.jsonl", "--name", "x", "--out", "."], "holds no steer"),
    "no data": (["fit", "--name", "x"], "nothing to fit"),
    "no name": (["fit", "letters.jsonl"], "--name"),
    "no such file": (["fit", "gone.jsonl", "--name", "x"], "no such file"),
    "unknown method": (["fit", "letters.jsonl", "--name", "x", "--method", "magic"], "'closed-form', 'gradient'"),
    "rank out of range": (["fit", "letters.jsonl", "--name", "x", "--rank", "99"], "rank must be"),
    "no label column": (["fit", "letters.jsonl", "--name", "x", "--label-column", "y"], "no column 'y'"),
    "empty file": (["fit", "empty.jsonl", "--name", "x"], "holds 0 texts"),
    "unknown steer": (["generate", "x", "--steer", "nobody=1"], "unknown steer 'nobody'"),
    "strength nan": (["generate", "x", "--steer", "s=nan"], "finite"),
    "strength inf": (["generate", "x", "--steer", "s=inf"], "finite"),
    "no prompts": (["generate"], "no prompts"),
    "verify unknown": (["verify", "nobody"], "unknown steer"),
    "other base": (["generate", "x", "--steer", "other=1"], "was fitted on"),
    "no statistics": (["fit", "--name", "x", "--statistics", "gone"], "no such folder of statistics: gone"),
    "top-p": (["generate", "x", "--top-p", "0"], "top_p must be above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_message_and_2(run, case):
    Path("empty.jsonl").touch()
    save_steer(random_steer(tiny_lm("qwen3")), "other")
    arguments, message = BAD[case]
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not Path("steers").exists()


def test_a_wrong_model_ends_in_2(run):
    status, _, err = run("generate", "x", "--model", "./nowhere", model=False)
    assert status == 2
    assert "no such file or folder" in err


def test_usage_errors_exit_with_2(run):
    assert run("generate", "--temperature", "hot")[0] == 2


def test_every_command_has_help_with_an_example(run):
    for registered in app.registered_commands:
        command = registered.name or registered.callback.__name__
        status, out, _ = run(command, "--help", model=False)
        assert status == 0
        assert f"lmsteer {command}" in out
