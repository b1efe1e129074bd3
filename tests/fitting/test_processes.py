"""Several processes fit what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmsteer.fitting.processes import Processes
from lmsteer.steers.files import load_steer
from tiny import styled, tiny_lm


@pytest.fixture
def folder(tmp_path) -> Path:
    lm = tiny_lm("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"text": t.text, "label": t.label} for t in styled(241)]
    (tmp_path / "letters.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def run(folder: Path, launcher: list[str], name: str, *more: str) -> subprocess.CompletedProcess[str]:
    fit = ["lmsteer", "fit", "letters.jsonl", "--name", name, "--model", "tiny", *more]
    environment = {**os.environ, "LMSTEER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *fit]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


# What ``accelerate launch`` runs where there are GPUs, and torch's own launcher on CPUs.
LAUNCH = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


def test_two_processes_fit_what_one_does(folder):
    one = run(folder, [], "one")
    assert one.returncode == 0, one.stderr
    two = run(folder, LAUNCH, "two", "--save-statistics", "stats")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("saved to") == 1
    alone, together = load_steer(folder / "steers" / "one"), load_steer(folder / "steers" / "two")
    assert together.card.data["fingerprint"] == alone.card.data["fingerprint"]
    assert together.card.data["texts"] == 240  # one of the 241 is odd: the sides are even
    for name, factor in alone.factors.items():
        # The same sums in another order (float64), of rows from other batches (float32), then two solves.
        torch.testing.assert_close(together.factors[name], factor, rtol=1e-3, atol=1e-3)
    assert sorted(path.name for path in (folder / "steers").iterdir()) == ["one", "two"]
    assert (folder / "stats" / "statistics.json").exists()


def test_the_gradient_method_is_refused_several_processes(folder):
    done = run(folder, LAUNCH, "two", "--method", "gradient")
    assert done.returncode != 0
    assert "one process" in done.stderr


def test_shares_and_folders_make_a_whole():
    processes = [Processes(index, 3) for index in range(3)]
    shares = [list(each.share(range(8))) for each in processes]
    assert sorted(item for share in shares for item in share) == list(range(8))
    folders = processes[1].folders(Path("a/s.partial"))
    assert [folder.name for folder in folders] == ["s.partial-0", "s.partial-1", "s.partial-2"]
    assert Processes().folders(Path("s.partial")) == [Path("s.partial")]
    assert [each.is_first for each in processes] == [True, False, False]
