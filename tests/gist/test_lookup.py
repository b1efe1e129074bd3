"""Saved gist adapters: their cards are read without tensors, and folders of fits are checked without a model."""

from __future__ import annotations

import json

import pytest

from lmsteer.errors import DataError
from lmsteer.gist.adapter import save_adapter
from lmsteer.gist.config import GistConfig
from lmsteer.gist.lookup import check_fit_folders, find_card, gist_run


def test_the_card_is_read_without_the_tensors(llama, adapter_of, tmp_path):
    adapter = adapter_of(llama)
    folder = save_adapter(adapter, tmp_path / "gists")
    (folder / "gist.safetensors").unlink()
    assert find_card(folder) == adapter.card
    (folder / "gist.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        find_card(folder)


def test_folders_of_a_fit_are_checked_without_a_model(tmp_path):
    config = GistConfig(steps=5)
    check_fit_folders(tmp_path / "new", config, resume=True)
    run = gist_run(tmp_path / "gists", {**config.to_json(), "examples": "digest"})
    run.open()
    check_fit_folders(tmp_path / "gists", config, resume=True)
    check_fit_folders(tmp_path / "gists", GistConfig(steps=6), resume=False)  # its checkpoints will be removed
    with pytest.raises(DataError, match="a gist fit with another steps"):
        check_fit_folders(tmp_path / "gists", GistConfig(steps=6), resume=True)
    run.path.unlink()
    (run.folder / "thesis.txt").write_text(json.dumps("years of work"))
    with pytest.raises(DataError, match="is not empty"):
        check_fit_folders(tmp_path / "gists", config, resume=False)
