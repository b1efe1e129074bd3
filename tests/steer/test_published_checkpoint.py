"""Published checkpoints become steers, and no code in them runs."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from lmsteer.errors import SteerError
from lmsteer.steer.published_checkpoint import import_published
from tiny import card


def published(path: Path, factors: dict[str, torch.Tensor], **arguments: object) -> Path:
    torch.save([argparse.Namespace(**arguments), factors, 1000], path)
    return path


def test_a_published_checkpoint_becomes_steers(llama, tmp_path):
    a, b = torch.randn(2, 32, 5), torch.randn(2, 32, 5)
    file = published(tmp_path / "c.pt", {"projector1": a, "projector2": b}, epsilon=0.5, seed=0)
    steers = import_published(file, card(llama), 32, llama.head.weight.shape[0])
    assert [steer.card.name for steer in steers] == ["style-0", "style-1"]
    for k, steer in enumerate(steers):
        torch.testing.assert_close(steer.matrix(), 0.5 * a[k] @ b[k].T, rtol=1e-5, atol=1e-5)
        assert json.dumps(steer.card.fit)
    plain = published(tmp_path / "plain.pt", {"projector1": a[:1], "projector2": b[:1]}, seed=0)
    (steer,) = import_published(plain, card(llama), 32, llama.head.weight.shape[0])
    torch.testing.assert_close(steer.matrix(), 1e-3 * a[0] @ b[0].T, rtol=1e-5, atol=1e-7)  # the code's own epsilon


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_checkpoint_that_asks_for_code_is_refused_and_runs_none(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save([argparse.Namespace(), {"projector1": _Bomb()}, 0], tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(SteerError, match="without running code"):
            import_published(tmp_path / name, card(llama), 32, 200)
    assert not (tmp_path / "exploded").exists()


def test_other_files_are_no_checkpoints(llama, tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    published(tmp_path / "odd.pt", {"projector3": torch.zeros(1, 2)})
    a, b = torch.zeros(2, 32, 5), torch.zeros(1, 32, 5)
    published(tmp_path / "uneven.pt", {"projector1": a, "projector2": b})
    published(tmp_path / "scale.pt", {"projector1": b, "projector2": b}, epsilon="much")
    for name, message in (
        ("other.pt", "not a published"),
        ("odd.pt", "expected"),
        ("gone.pt", "no such file"),
        ("uneven.pt", r"different numbers of steers: \[1, 2\]"),
        ("scale.pt", "an epsilon of 'much', which is no number"),
    ):
        with pytest.raises(SteerError, match=message):
            import_published(tmp_path / name, card(llama), 32, 200)
