"""Steers on disk: written whole or not at all, read without running anything."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lmsteer.errors import SteerError
from lmsteer.steer.files import find_steer, import_published, load_steer, save_steer
from tiny import card, random_steer


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_a_steer_comes_back_as_it_was(llama, tmp_path, form):
    steer = random_steer(llama, form)
    loaded = load_steer(save_steer(steer, tmp_path / "s"))
    assert (loaded.form, loaded.card) == (form, steer.card)
    assert all(torch.equal(loaded.factors[name], factor) for name, factor in steer.factors.items())
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == ["steer.json", "steer.safetensors"]


def test_a_full_disk_leaves_the_old_steer(llama, tmp_path, monkeypatch):
    old = random_steer(llama, seed=1)
    save_steer(old, tmp_path / "s")

    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(SteerError, match=r"No space left.*What stood there before is untouched"):
        save_steer(random_steer(llama, seed=2), tmp_path / "s")
    assert torch.equal(load_steer(tmp_path / "s").factors["A"], old.factors["A"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_what_lies_beside_a_steer_is_not_removed(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "notes.md").write_text("tried on Monday")
    with pytest.raises(SteerError, match=r"holds notes\.md beside its steer"):
        save_steer(random_steer(llama), tmp_path / "s")
    assert (tmp_path / "s" / "notes.md").exists()


def test_factors_that_do_not_match_and_other_formats_are_refused(llama, tmp_path):
    steer = random_steer(llama)
    with pytest.raises(SteerError, match="must be alike"):
        replace(steer, factors={"A": torch.zeros(32, 3), "B": torch.zeros(32, 4)})
    folder = save_steer(steer, tmp_path / "s")
    told = json.loads((folder / "steer.json").read_text())
    (folder / "steer.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(SteerError, match="format 2"):
        load_steer(folder)


def test_a_folder_of_something_else_is_not_overwritten(llama, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SteerError, match="holds no steer"):
        save_steer(random_steer(llama), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_unknown_steer_names_those_that_there_are(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steer(random_steer(llama), Path("steers/politeness"))
    assert find_steer("politeness").form == "multiply"
    assert find_steer("steers/politeness").form == "multiply"
    with pytest.raises(SteerError, match=r"unknown steer 'polite'.*politeness"):
        find_steer("polite")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"form": "multiply"}', '{"card": {"odd": 1}}'])
def test_a_damaged_card_is_told(llama, tmp_path, content):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "steer.json").write_text(content)
    with pytest.raises(SteerError, match="is damaged"):
        load_steer(tmp_path / "s")


def test_damaged_factors_are_told(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "steer.safetensors").write_bytes(b"half")
    with pytest.raises(SteerError, match="is damaged"):
        load_steer(tmp_path / "s")
    (tmp_path / "s" / "steer.safetensors").unlink()
    with pytest.raises(SteerError, match="no steer in"):
        load_steer(tmp_path / "s")


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
    for name, message in (("other.pt", "not a published"), ("odd.pt", "expected"), ("gone.pt", "no such file")):
        with pytest.raises(SteerError, match=message):
            import_published(tmp_path / name, card(llama), 32, 200)
