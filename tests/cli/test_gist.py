"""gist fit, compress and generate: from instruction data to outputs under a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer

FIT = (
    "gist",
    "fit",
    "data.jsonl",
    "--out",
    "gists",
    "--tokens",
    "2",
    "--rank",
    "2",
    "--steps",
    "6",
    "--batch-size",
    "4",
)


@pytest.fixture
def gists(run):
    rows = [{"instruction": f"say {letter}", "input": "", "output": letter} for letter in "abcdefgh"]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(*FIT, "--held-out", "data.jsonl", "--eval-steps", "3")[0] == 0
    assert run("gist", "compress", "say a", "--adapter", "gists", "--out", "a.gist")[0] == 0
    return Path("gists")


def test_a_prompt_becomes_a_file_that_stands_in_its_place(run, gists, tiny_folder):
    status, out, _ = run("gist", "compress", "say b, please", "--adapter", "gists", "--out", "b.gist", "--json")
    assert status == 0
    result = json.loads(out)
    # keys and values, two layers, two heads of eight numbers, float32
    assert (result["gist_tokens"], result["bytes"]) == (2, 2 * 2 * 2 * 2 * 8 * 4)
    assert result["prompt_tokens"] == len("Instruction: say b, please\n")
    lm = load(tiny_folder)
    save_steer(random_steer(lm, name="s"), "steers/s")
    line = ["gist", "generate", "xy", "z", "--adapter", "gists", "--max-new-tokens", "4"]
    status, out, _ = run(*line, "--gist", "a.gist", "--gist", "b.gist", "--steer", "s=0,4", "--json")
    assert status == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"]["text"] for row in rows] == ["\nInput: xy\nOutput:", "\nInput: z\nOutput:"]
    assert [[g["strengths"] for g in row["generations"]] for row in rows] == [[{"s": 0}, {"s": 4}]] * 2
    assert [row["gist"] for row in rows] == ["a.gist", "b.gist"]
    both = ["gist", "generate", "xy", "xy", "--adapter", "gists", "--max-new-tokens", "4", "--json"]
    status, out, _ = run(*both, "--gist", "a.gist", "--gist", "b.gist")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["gist"], len(row["generations"])) for row in rows] == [("a.gist", 1), ("b.gist", 1)]
    status, out, _ = run(*line, "--gist", "a.gist")
    assert status == 0
    assert "unsteered" in out


def test_the_fit_tells_what_held_out_instructions_say(run, gists):
    status, out, _ = run(*FIT, "--held-out", "data.jsonl")
    assert status == 0
    assert re.search(r"gist \d\.\d+, positive \d\.\d+, negative \d\.\d+\.", " ".join(out.split()))
    status, out, _ = run(*FIT, "--condition", "negative", "--json")
    assert json.loads(out)["card"]["fit"]["condition"] == "negative"
    status, out, _ = run(*FIT, "--condition", "negative", "--held-out", "data.jsonl")
    assert status == 0
    assert re.search(r"by condition: negative \d\.\d+\.", " ".join(out.split()))  # a control has no other loss


def test_outputs_are_measured(run, gists):
    pytest.importorskip("rouge_score", reason="the extra 'gist' is not installed")
    line = ["gist", "evaluate", "data.jsonl", "--adapter", "gists", "--max-new-tokens", "3"]
    status, out, _ = run(*line, "--json")
    assert status == 0
    assert (json.loads(out)["condition"], json.loads(out)["examples"]) == ("gist", 8)
    status, out, _ = run(*line, "--condition", "positive", "--limit", "3")
    assert status == 0
    assert "3 outputs, condition positive: ROUGE-L" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "data.jsonl", "--out", "x", "--tokens", "0"], "Invalid value for '--tokens'"),
        (["fit", "data.jsonl", "--out", "x", "--eval-steps", "0"], "Invalid value for '--eval-steps'"),
        (["fit", "data.jsonl", "--out", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["fit", "data.jsonl", "--out", "x", "--condition", "maybe"], "'gist', 'positive', 'negative'"),
        (["fit", "nothing.jsonl", "--out", "x"], "no such file"),
        (["fit", "empty.jsonl", "--out", "x"], "the instruction is empty"),
        (["fit", "data.jsonl", "--out", "data.jsonl"], "holds no gist adapter"),
        (["fit", "data.jsonl", "--out", "."], "holds no gist adapter"),
        (["evaluate", "data.jsonl", "--adapter", "gists", "--limit", "0"], "Invalid value for '--limit'"),
        (["evaluate", "data.jsonl", "--adapter", "gists", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (
            ["fit", "data.jsonl", "--out", "other", "--tokens-per-microbatch", "0"],
            "Invalid value for '--tokens-per-microbatch'",
        ),
        (["evaluate", "data.jsonl", "--adapter", "gists", "--condition", "maybe"], "'gist', 'positive', 'negative'"),
        (["compress", " ", "--adapter", "gists", "--out", "x"], "the prompt is empty"),
        (["compress", "--adapter", "gists", "--out", "x"], "give a prompt"),
        (["compress", "a" * 5000, "--adapter", "gists", "--out", "x"], "longer than the model's context"),
        (["compress", "a", "--adapter", "nowhere", "--out", "x"], "no gist adapter"),
        (["generate", "a", "--adapter", "gists", "--gist", "nothing"], "no such file"),
        (["generate", "a", "--adapter", "gists", "--gist", "cut.gist"], "is no gist, or damaged"),
        (["generate", "a", "--adapter", "gists", "--gist", "data.jsonl"], "is no gist, or damaged"),
        (["generate", "a", "--adapter", "other", "--gist", "a.gist"], "another gist adapter"),
        (["generate", "a", "b", "c", "--adapter", "gists", "--gist", "a.gist", "--gist", "a.gist"], "2 gists for 3"),
        (["generate", "a" * 5000, "--adapter", "gists", "--gist", "a.gist"], "longer than the model's context"),
        (
            ["generate", "a", "--adapter", "gists", "--gist", "a.gist", "--num-samples", "0"],
            "Invalid value for '--num-samples'",
        ),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, gists, arguments, message):
    Path("empty.jsonl").write_text('{"instruction": "", "output": "a"}\n')
    Path("cut.gist").write_bytes(Path("a.gist").read_bytes()[:-20])
    assert run(*FIT[:3], "--out", "other", "--steps", "1", "--seed", "3")[0] == 0
    status, out, err = run("gist", *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not Path("x").exists()
