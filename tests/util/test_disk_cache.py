"""Cache entries are listed and cleared by kind; each kind is registered by the module that writes it."""

from __future__ import annotations

import pytest

from lmsteer.errors import ModelError
from lmsteer.util import disk_cache
from lmsteer.util.disk_cache import CacheKind, build_once, cache_dir, clear, entries, register


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "_kinds", {disk_cache.MODELS.name: disk_cache.MODELS})


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LMSTEER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "lmsteer"


def test_without_a_home_folder_the_cache_has_to_be_named(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LMSTEER_CACHE")
    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    with pytest.raises(ModelError, match="set LMSTEER_CACHE"):
        cache_dir()


def test_entries_of_registered_kinds_are_listed_and_cleared():
    register(CacheKind("letters", "letters-*.txt"))
    register(CacheKind("boxes", "boxes/*", "box.json", lambda folder: f"a box of {folder.name}"))
    for name in ("letters-a.txt", "boxes/red/box.json", "boxes/red/content", "boxes/no box/content", "unknown"):
        file = cache_dir() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("12345")
    found = [(entry.kind, entry.contents, entry.size) for entry in entries()]
    assert found == [("boxes", "a box of red", 10), ("letters", "letters-a", 5)]
    assert [entry.path.name for entry in clear("boxes")] == ["red"]
    assert not (cache_dir() / "boxes" / "red").exists()
    assert [entry.kind for entry in clear("all")] == ["letters"]
    assert (cache_dir() / "unknown").exists()


def test_an_unknown_kind_is_refused():
    with pytest.raises(ModelError, match="no entries of kind 'letters'; choose models or all"):
        clear("letters")


def test_a_folder_is_built_once_and_again_when_it_is_damaged(capsys):
    built = []

    def fill(folder):
        built.append(folder)
        (folder / "weights").write_text("123")

    folder, origin = cache_dir() / "model", {"sha256": "abc"}
    assert build_once(folder, origin, fill) == folder
    build_once(folder, origin, fill)
    assert len(built) == 1
    assert [(entry.kind, entry.contents) for entry in entries()] == [("models", "model")]
    (folder / "weights").write_text("12")
    build_once(folder, origin, fill)
    assert len(built) == 2
    assert "damaged" in capsys.readouterr().err
    build_once(folder, {"sha256": "def"}, fill)
    assert len(built) == 3
