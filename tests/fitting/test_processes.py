"""Several processes fit the steer that one process fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from lmsteer.errors import StatisticsError
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.statistics import Statistics
from lmsteer.steer.files import load_steer
from lmsteer.util.distributed import Processes
from tiny import styled, tiny_lm


@pytest.fixture
def folder(tmp_path) -> Path:
    lm = tiny_lm("llama")
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    # Some of them twice: in two shares, which must not count them twice.
    rows = [{"text": t.text, "label": t.label} for t in [*styled(240), *styled(240)[:31]]]
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
    assert together.card.data["texts"] == 240
    for name, factor in alone.factors.items():
        # The same sums in another order (float64), of rows from other batches (float32), then two solves.
        torch.testing.assert_close(together.factors[name], factor, rtol=1e-3, atol=1e-3)
    assert sorted(path.name for path in (folder / "steers").iterdir()) == ["one", "two"]
    assert (folder / "stats" / "statistics.json").exists()


def test_two_processes_fit_at_sites_what_one_does(folder):
    sites = ("--sites", "layers.0,layers.1.mlp.down_proj,head")
    for name, launcher in (("one", []), ("two", LAUNCH)):
        done = run(folder, launcher, name, *sites)
        assert done.returncode == 0, done.stderr
    alone, together = load_steer(folder / "steers" / "one"), load_steer(folder / "steers" / "two")
    assert [*together.factors] == [*alone.factors]
    assert together.card.held_out["texts"] == alone.card.held_out["texts"]
    assert together.card.held_out["sign_accuracy"] == alone.card.held_out["sign_accuracy"]
    for name in ("layers.0", "layers.1.mlp.down_proj"):
        products = [each.inner[name].a @ each.inner[name].b.T for each in (alone, together)]
        # As above; the unit of strength is measured to a tenth in steps, which begin with these maps.
        torch.testing.assert_close(products[1], products[0], rtol=0, atol=1e-2 * float(products[0].abs().max()))
    assert sorted(path.name for path in (folder / "steers").iterdir()) == ["one", "two"]


def test_the_share_of_another_launch_is_not_taken_in(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Processes, "wait_for_everyone", lambda self: None)
    monkeypatch.setattr(Processes, "main_process_first", lambda self: nullcontext())
    texts = styled(240)
    Statistics.empty(llama).save(tmp_path / "s.partial-1", share="2 of 2 of other texts", batches=3, of=3)
    with pytest.raises(StatisticsError, match="must share a disk"):
        fit(llama, texts, name="s", out=tmp_path / "s", config=FitConfig(processes=Processes(0, 2)))
    inside = FitConfig(processes=Processes(1, 2), sites=("layers.0",))
    with pytest.raises(StatisticsError, match=r"u\.partial-0\.sites.*must share a disk"):
        fit(llama, texts, name="u", out=tmp_path / "u", config=inside)
    with pytest.raises(StatisticsError, match="no complete statistics in"):
        fit(llama, texts, name="t", out=tmp_path / "t", config=FitConfig(processes=Processes(0, 2)))
