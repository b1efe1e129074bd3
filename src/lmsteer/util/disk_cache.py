"""The cache folder on disk: models, hidden states, Fisher factors and adapters that are computed once and kept.

Each kind of entry has an owner, the module that writes it, which registers a ``CacheKind`` here; so entries can be
listed and removed without knowing what they are. Folders that take long to build are built by ``build_once``: aside,
under a lock, and renamed when they are complete, so that neither a crash nor a second process leaves half of one. Their
file ``source.json`` names the origin and the size of every file: a folder that was cut short afterwards (a full disk,
a broken copy) is noticed and built again.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmsteer.errors import ModelError
from lmsteer.util.files import aside_prefix, replace_folder
from lmsteer.util.progress import notice
from lmsteer.util.records import parse_json

# Raised when the conversion of models changes, so that folders of an older lmsteer are built again.
_FORMAT = 2
_RECORD = "source.json"


def cache_dir() -> Path:
    """``$LMSTEER_CACHE``, or else ``$XDG_CACHE_HOME/lmsteer``, or else ``~/.cache/lmsteer``.

    Raises:
        ModelError: there is no home folder.
    """
    try:
        if folder := os.environ.get("LMSTEER_CACHE"):
            return Path(folder).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmsteer"
    except RuntimeError as error:
        raise ModelError("there is no home folder to keep a cache in: set LMSTEER_CACHE to a folder.") from error


@dataclass(frozen=True)
class CacheKind:
    """A kind of cache entry.

    Attributes:
        name: the name of the kind, in lists and for ``clear``: "states".
        pattern: a glob pattern, relative to the cache folder, that its entries match. Each entry is the file that
            matches, or, if ``marker`` is set, the folder that matches and holds a file of that name.
        marker: the name of that file; None where entries are single files.
        describe: what an entry contains, in a few words, from its path.
    """

    name: str
    pattern: str
    marker: str | None = None
    describe: Callable[[Path], str] = lambda path: path.stem

    def paths(self) -> list[Path]:
        """The paths of all entries."""
        return [path for path in cache_dir().glob(self.pattern) if self.marker is None or (path / self.marker).exists()]


_kinds: dict[str, CacheKind] = {}


def register(kind: CacheKind) -> CacheKind:
    """Have entries of a kind listed and cleared."""
    _kinds[kind.name] = kind
    return kind


MODELS = register(CacheKind("models", "[!.]*", _RECORD, lambda folder: folder.name))


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    Attributes:
        path: its folder or file.
        kind: the name of its kind.
        contents: what it contains, in a few words.
        size: its size in bytes.
    """

    path: Path
    kind: str
    contents: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """The entry as a JSON object."""
        return {**asdict(self), "path": str(self.path)}


def entries() -> list[Entry]:
    """All entries of the registered kinds, by kind."""
    paths = sorted((kind.name, path) for kind in _kinds.values() for path in kind.paths())
    return [Entry(path, name, _kinds[name].describe(path), size_of(path)) for name, path in paths]


def clear(kind: str) -> list[Entry]:
    """Remove all entries of a kind, or of every kind (``all``); returns what was removed.

    Raises:
        ModelError: there is no such kind, or an entry cannot be removed.
    """
    if kind not in ("all", *_kinds):
        raise ModelError(f"the cache has no entries of kind {kind!r}; choose {', '.join(_kinds)} or all.")
    removed = [entry for entry in entries() if kind in ("all", entry.kind)]
    try:
        for entry in removed:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"cannot clear the cache: {error}.") from error
    return removed


def size_of(path: Path) -> int:
    """The size of a file, or of all files in a folder, in bytes."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(_file_size(file) for file in files)


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0  # removed by another process meanwhile


def build_once(folder: Path, origin: dict[str, str], fill: Callable[[Path], None]) -> Path:
    """Build a folder, unless an earlier run or another process has already done so.

    Args:
        folder: the folder, in the cache.
        origin: what it is built from; its ``sha256`` identifies the content. A folder with another one is replaced.
        fill: writes the content into the folder that it is given.

    Returns:
        The folder.

    Raises:
        ModelError: the disk cannot be written.
    """
    if _is_complete(folder, origin["sha256"]):
        return folder
    from safetensors import SafetensorError

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_complete(folder, origin["sha256"]):
                _build(folder, origin, fill)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot build {folder}: {error}; make room there, or set LMSTEER_CACHE to another folder."
        ) from error
    return folder


def _build(folder: Path, origin: dict[str, str], fill: Callable[[Path], None]) -> None:
    if folder.exists():
        notice(f"{folder} is damaged or of another version of lmsteer; building it again ...")
    # We hold the lock: what else is aside is left over from a run that was killed.
    for leftover in folder.parent.glob(f"{glob.escape(aside_prefix(folder))}*"):
        shutil.rmtree(leftover)
    with replace_folder(folder) as aside:
        fill(aside)
        files = [file for file in aside.iterdir() if file.is_file()]
        for file in files:
            file.chmod(0o644)  # safetensors writes 0600, which would shut others out of a shared cache
        sizes = {file.name: file.stat().st_size for file in files}
        record = {"format": _FORMAT, **origin, "files": sizes}
        (aside / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _is_complete(folder: Path, digest: str) -> bool:
    try:
        record = parse_json((folder / _RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["files"]
        is_whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return is_whole and record["format"] == _FORMAT and record["sha256"] == digest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        notice(f"waiting for another process that is building {folder} ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
