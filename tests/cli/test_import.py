"""import makes steers of published checkpoints and of LoRAs; nothing else is read."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lmsteer.steer.files import load_steer


def test_import_makes_a_steer(run):
    factors = {"projector1": torch.randn(1, 32, 4), "projector2": torch.randn(1, 32, 4)}
    torch.save([argparse.Namespace(epsilon=1e-3), factors, 7], "c.pt")
    assert run("import", "c.pt", "--name", "old")[0] == 0
    assert load_steer("steers/old").rank == 4
    assert run("import", "c.pt", "--name", "old", "--out", "my/own")[0] == 0
    assert load_steer("my/own").card.name == "old"


def test_what_is_no_checkpoint_is_refused(run):
    for content in (b"text,label\n", b"\x80\x02.", b"", b"PK\x03\x04"):
        Path("c.pt").write_bytes(content)
        status, _, err = run("import", "c.pt", "--name", "old")
        assert status == 2
        assert "not a published checkpoint" in err


def test_what_is_missing_is_refused(run):
    status, _, err = run("import", "gone.pt", "--name", "old")
    assert status == 2
    assert "no such file or folder: gone.pt" in err


def test_a_folder_without_a_lora_is_refused(run):
    Path("steers").mkdir()
    status, _, err = run("import", "steers", "--name", "x")
    assert status == 2
    assert "no LoRA in steers" in err
