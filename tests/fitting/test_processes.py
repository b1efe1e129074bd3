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

from lmsteer.errors import DataError, StatisticsError
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.inside.fit_inside import _all_sums
from lmsteer.fitting.inside.sums import InsideSums
from lmsteer.fitting.run import FitRun
from lmsteer.fitting.statistics import Statistics
from lmsteer.steer.files import load_steer
from lmsteer.steer.sites import find_site
from lmsteer.util.distributed import Processes
from lmsteer.util.progress import no_progress
from lmsteer.util.run import Run
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


@pytest.fixture
def launched(tmp_path, llama, monkeypatch):
    """Gathers the sums of one of several processes at a site; another one must have done so before the first."""
    monkeypatch.setattr(Processes, "wait_for_everyone", lambda self: None)
    sites = [find_site(llama.model, "layers.0")]

    def gathered(index, count):
        processes = Processes(index, count)
        run = FitRun(llama, styled(240), tmp_path / f"of-{count}", None, True, False, no_progress, processes)
        config = {**run.configuration().config, "sites": ["layers.0"]}
        Run(run.sites_partial, config, "a fit").open()
        return run, _all_sums(run, sites, None, "sums.safetensors")

    return gathered


def test_sums_of_two_processes_are_those_of_one(launched):
    _, alone = launched(0, 1)
    other, nothing = launched(1, 2)
    own, together = launched(0, 2)
    assert nothing is None
    assert len(own.texts) == len(other.texts) == 120
    assert torch.equal(together.counts, alone.counts)
    for name, total in alone.tensors.items():
        # Rows of other batches, float32.
        torch.testing.assert_close(together.tensors[name], total, rtol=1e-4, atol=1e-4 * float(total.abs().max()))


@pytest.mark.parametrize("spoil", ["cut short", "of another share", "of another model", "not there"])
def test_sums_that_are_not_those_of_the_other_process_are_refused(launched, llama, spoil):
    other, _ = launched(1, 2)
    file, record = other.sites_partial / "sums.safetensors", other.sites_partial / "run.json"
    if spoil == "cut short":
        InsideSums([find_site(llama.model, "layers.0")]).save(file, 1, 2)
    elif spoil == "not there":
        file.unlink()
    else:
        key = "share" if "share" in spoil else "model"
        record.write_text(json.dumps({**json.loads(record.read_text()), key: "another"}))
    with pytest.raises(StatisticsError, match=r"share a disk|missing"):
        launched(0, 2)


def test_what_is_refused_leaves_nothing_of_any_process(tmp_path, llama, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Processes, "wait_for_everyone", lambda self: None)
    monkeypatch.setattr(Processes, "main_process_first", lambda self: nullcontext())

    def refused(*_):
        raise DataError("no map at layers.0")

    monkeypatch.setattr("lmsteer.fitting.fit.gather_all_statistics", refused)
    for name in ("s.partial-0", "s.partial-1", "s.partial-1.sites"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="no map"):
        fit(llama, styled(240), name="s", out=tmp_path / "s", config=FitConfig(processes=Processes(0, 2)))
    assert sorted(path.name for path in tmp_path.glob("s*")) == []
