"""Interrupted fits are resumed exactly, and only as the same fit; several processes make one adapter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from lmsteer.errors import DataError, InterruptedWorkError, OutputError
from lmsteer.gist.adapter import load_adapter
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.fit import fit_gist


def test_a_resumed_fit_equals_one_that_was_not_interrupted(llama, copying, tmp_path):
    config = GistConfig(tokens=1, rank=2, steps=8, batch_size=4, eval_steps=3)
    whole = fit_gist(llama, copying(32), tmp_path / "whole", config=config)
    done, starts = [], []

    def progress(title, total, start):
        starts.append(start)

        @contextmanager
        def opened():
            def step(advance, message):
                done.append(advance)
                if len(done) == 5:
                    signal.raise_signal(signal.SIGINT)

            yield step

        return opened()

    part = tmp_path / "part"
    with pytest.raises(InterruptedWorkError, match=r"A checkpoint is kept in .*part\.partial.*--resume"):
        fit_gist(llama, copying(32), part, config=config, progress=progress)
    assert not part.exists()
    for other in ({"rank": 3}, {"learning_rate": 0.1}, {"condition": GistCondition.NEGATIVE}, {"steps": 5}):
        name = next(iter(other)).replace("_", " ")
        with pytest.raises(DataError, match=f"a gist fit with another {name}"):
            fit_gist(llama, copying(32), part, config=replace(config, **other), resume=True)
    with pytest.raises(DataError, match="a gist fit with another examples"):
        fit_gist(llama, copying(32, seed=4), part, config=config, resume=True)
    again = fit_gist(llama, copying(32), part, config=config, resume=True, progress=progress)
    assert starts == [0, 5]
    assert len(done) == 8
    assert again.fingerprint == whole.fingerprint


def test_a_full_disk_keeps_the_last_whole_checkpoint(llama, copying, tmp_path, monkeypatch):
    config = GistConfig(tokens=1, rank=2, steps=4, batch_size=4, eval_steps=2)
    save, calls = torch.save, []

    def full(content, file, **options):
        calls.append(file)
        if "checkpoint-4" in str(file):
            raise RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed")
        save(content, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OutputError, match=r"a checkpoint to .*A checkpoint is kept"):
            fit_gist(llama, copying(32), tmp_path / "a", config=config)
    assert calls
    assert [entry.name for entry in (tmp_path / "a.partial").glob("checkpoint-*")] == ["checkpoint-2"]
    again = fit_gist(llama, copying(32), tmp_path / "a", config=config, resume=True)
    assert again.fingerprint == fit_gist(llama, copying(32), tmp_path / "whole", config=config).fingerprint


def test_a_new_fit_removes_checkpoints_of_an_earlier_one(llama, copying, tmp_path):
    config = GistConfig(tokens=1, rank=2, steps=2, batch_size=4)
    old = tmp_path / "a.partial"
    old.mkdir()
    (old / "fit.json").write_text("{}")
    (old / "checkpoint-17").mkdir()
    whole = fit_gist(llama, copying(16), tmp_path / "b", config=config)
    assert fit_gist(llama, copying(16), tmp_path / "a", config=config).fingerprint == whole.fingerprint
    assert not old.exists()


def test_a_folder_of_other_files_is_not_used_for_checkpoints(llama, copying, tmp_path):
    (tmp_path / "u.partial").mkdir()
    (tmp_path / "u.partial" / "thesis.txt").touch()
    with pytest.raises(DataError, match="is not empty and holds no fit"):
        fit_gist(llama, copying(4), tmp_path / "u", config=GistConfig(steps=1))
    assert (tmp_path / "u.partial" / "thesis.txt").exists()


def test_two_processes_fit_one_adapter(llama, copying, tmp_path):
    llama.model.save_pretrained(tmp_path / "tiny")
    llama.tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"instruction": each.instruction, "output": each.output} for each in copying(16)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    script = (
        "from lmsteer import load\n"
        "from lmsteer.gist.config import GistConfig\n"
        "from lmsteer.data.instructions import read_instructions\n"
        "from lmsteer.gist.fit import fit_gist\n"
        "rows = read_instructions('data.jsonl')\n"
        "config = GistConfig(rank=2, steps=2, batch_size=4, eval_steps=1)\n"
        "fit_gist(load('tiny'), rows, 'g', config=config, held_out=rows[:4])\n"
    )
    (tmp_path / "run.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "run.py"]
    environment = {**os.environ, "LMSTEER_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = load_adapter(tmp_path / "g").card.held_out
    assert [line["step"] for line in metrics["curve"]] == [1, 2]
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("g")) == ["g"]
