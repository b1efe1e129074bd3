"""Steers on disk: written completely or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

from lmsteer.errors import OutputError, SteerError
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.lookup import read_saved
from tiny import random_steer


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
    with pytest.raises(OutputError, match=r"cannot write the steer to .*: No space left on device \(\S+ MB are needed"):
        save_steer(random_steer(llama, seed=2), tmp_path / "s")
    assert torch.equal(load_steer(tmp_path / "s").factors["A"], old.factors["A"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_saving_keeps_other_files_of_the_folder(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "notes.md").write_text("tried on Monday")
    with pytest.raises(SteerError, match=r"holds notes\.md beside its steer"):
        save_steer(random_steer(llama), tmp_path / "s")
    assert (tmp_path / "s" / "notes.md").exists()


def test_mismatched_factors_and_other_formats_are_refused(llama, tmp_path):
    steer = random_steer(llama)
    with pytest.raises(SteerError, match="must be alike"):
        replace(steer, factors={"A": torch.zeros(32, 3), "B": torch.zeros(32, 4)})
    folder = save_steer(steer, tmp_path / "s")
    record = json.loads((folder / "steer.json").read_text())
    (folder / "steer.json").write_text(json.dumps({**record, "format": 2}))
    with pytest.raises(SteerError, match="format 2"):
        load_steer(folder)


def test_a_folder_of_something_else_is_not_overwritten(llama, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SteerError, match="holds no steer"):
        save_steer(random_steer(llama), tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"form": "multiply"}', '{"card": {"odd": 1}}', "[" * 100_000])
def test_a_damaged_card_is_refused(llama, tmp_path, content):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "steer.json").write_text(content)
    with pytest.raises(SteerError, match="is damaged"):
        load_steer(tmp_path / "s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("held_out", []),
        ("calibration", 3),
        ("safe_range", 3),
        ("safe_range", [1]),
        ("safe_range", "ab"),
        ("head_sample", [[]]),
    ],
)
def test_a_card_with_another_type_of_value_is_refused(llama, tmp_path, field, value):
    folder = save_steer(random_steer(llama), tmp_path / "s")
    record = json.loads((folder / "steer.json").read_text())
    record["card"][field] = value
    (folder / "steer.json").write_text(json.dumps(record))
    for read in (load_steer, read_saved):
        with pytest.raises(SteerError, match=f"is damaged.*{field}"):
            read(folder)


def test_damaged_factors_are_refused(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "s")
    (tmp_path / "s" / "steer.safetensors").write_bytes(b"half")
    with pytest.raises(SteerError, match="is damaged"):
        load_steer(tmp_path / "s")
    (tmp_path / "s" / "steer.safetensors").unlink()
    with pytest.raises(SteerError, match=r"no steer in .*: steer\.safetensors is missing"):
        load_steer(tmp_path / "s")
