"""What labelled data may not be meant to be is told on standard error, whichever command reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.errors import ModelError

DOUBTFUL = "text\tLabel\n{}b\t0\na\t1\na\t0\n \t1\n".format("".join(f"t{i}\t{i % 2}\n" for i in range(60)))
COMMANDS = {
    "fit": ["fit", "doubtful.TSV", "--name", "x"],
    "compare": ["compare", "doubtful.TSV", "--out", "x", "--train-sizes", "none"],
    "verify": ["verify", "one", "--data", "doubtful.TSV"],
    "transfer": ["transfer", "one", "--to", "{model}", "--out", "x", "--data", "doubtful.TSV"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_doubts_are_told_before_the_work_begins(run, lm, monkeypatch, command):
    def no_work(*args, **kwargs):
        raise ModelError("no work here")

    monkeypatch.setattr("lmsteer.load", no_work)
    Path("doubtful.TSV").write_text(DOUBTFUL)
    arguments = [each.format(model=lm.model.config._name_or_path) for each in COMMANDS[command]]
    doubts = [
        "doubtful.TSV: the labels go from 0 to 1, which is half of the dimension",
        "--label-map '0=-1,1=1'",
        "doubtful.TSV: texts that occur with different labels, all of which are kept: 1.",
        "doubtful.TSV: blank texts are left out: 1 of 64 rows.",
    ]
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert [doubt for doubt in doubts if doubt not in err] == []
    assert "half of the dimension" not in run(*arguments, "--label-map", "0=-1,1=1")[2]


def test_data_files_are_read_wherever_prompts_are(run):
    Path("prompts.csv").write_text("id,prompt\n1,abc\n2,xyz\n")
    status, out, _ = run(
        "generate", "--prompts", "prompts.csv", "--max-new-tokens", "2", "--num-samples", "1", "--json"
    )
    assert status == 0
    assert [json.loads(line)["prompt"]["text"] for line in out.splitlines()] == ["abc", "xyz"]
    Path("prompts.csv").write_text("id,question\n1,abc\n")
    for arguments in (
        ["generate", "--prompts", "prompts.csv"],
        ["analyse", "--texts", "prompts.csv"],
        ["gist", "generate", "--gist", "x", "--inputs", "prompts.csv"],
    ):
        status, _, err = run(*arguments)
        assert status == 2
        assert "prompts.csv, line 2: no column 'prompt' or 'text'; the columns are 'id', 'question'." in err
