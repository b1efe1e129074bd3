"""Names of models are looked up without reading a file, fetching anything or loading a model."""

from __future__ import annotations

import pytest

from lmsteer.errors import ModelError
from lmsteer.model.sources.lookup import Location, locate


def test_names_and_paths_stand_for_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, file = tmp_path / "own", tmp_path / "small.gguf"
    folder.mkdir()
    (folder / "config.json").touch()
    file.touch()  # empty: nothing is read
    assert locate("smollm2") == Location(None, "smollm2")
    assert locate("org/name") == Location(None, "org/name")
    assert locate(folder) == Location(folder, "own")
    assert locate(str(file)) == Location(file, "small")


def test_a_packaged_name_goes_before_a_folder_and_a_path_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert locate("smollm2").path is None
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate("./smollm2")
