"""Saved steers are found by folder or name, and their cards are read alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmsteer.errors import SteerError
from lmsteer.steer.files import find_steer, save_steer
from lmsteer.steer.lookup import find_card, folder_for_update, known_steers, read_saved
from tiny import random_steer


def test_an_unknown_steer_names_those_that_there_are(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steer(random_steer(llama), Path("steers/politeness"))
    assert find_steer("politeness").form == "multiply"
    assert find_steer("steers/politeness").form == "multiply"
    with pytest.raises(SteerError, match=r"unknown steer 'polite'.*politeness"):
        find_steer("polite")


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_a_saved_steer_is_described_without_its_factors(llama, tmp_path, form):
    steer = random_steer(llama, form)
    folder = save_steer(steer, tmp_path / "s")
    (folder / "steer.safetensors").write_bytes(b"never read")
    saved = read_saved(folder)
    assert (saved.form, saved.rank, saved.card) == (form, steer.rank, steer.card)
    assert not saved.is_shipped
    assert saved.to_json()["card"]["name"] == "style"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "form": "multiply", "rank": 1}'])
def test_a_damaged_card_is_refused(llama, tmp_path, content):
    folder = save_steer(random_steer(llama), tmp_path / "s")
    (folder / "steer.json").write_text(content)
    with pytest.raises(SteerError, match="is damaged"):
        find_card(folder)


def test_own_steers_are_listed_before_those_that_ship(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    steer = random_steer(llama)
    save_steer(replace(steer, card=replace(steer.card, name="a")), "shipped/a")
    save_steer(replace(steer, card=replace(steer.card, name="z")), "steers/z")
    assert [(saved.card.name, saved.is_shipped) for saved in known_steers()] == [("z", False), ("a", True)]


def test_a_steer_that_ships_is_updated_in_a_folder_of_the_user(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmsteer.steer.lookup.SHIPPED_FOLDER", tmp_path / "shipped")
    shipped, own = (save_steer(random_steer(llama), folder) for folder in ("shipped/style", "mine/style"))
    assert folder_for_update(shipped) == Path("steers/style")
    assert folder_for_update(shipped, Path("elsewhere")) == Path("elsewhere")
    assert folder_for_update(own) == own
    Path("thesis.txt").touch()
    with pytest.raises(SteerError, match="holds no steer"):
        folder_for_update(own, Path())
    save_steer(random_steer(llama), "steers/style")
    with pytest.raises(SteerError, match="choose a folder with --out"):
        folder_for_update(shipped)
