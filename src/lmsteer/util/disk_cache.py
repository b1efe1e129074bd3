"""The cache: folders of models, built once, whole or not at all.

A folder is built aside under a lock and renamed when it is complete, so neither a kill nor a second process can
leave half of one. Its ``source.json`` names the origin and the size of every file: a folder that was cut short
afterwards (a full disk, a broken copy) is noticed and built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lmsteer.errors import ModelError
from lmsteer.util.files import replace_folder

# Raised when the conversion changes, so that folders of an older lmsteer are built again.
_FORMAT = 2
_RECORD = "source.json"
# Where stores of hidden states lie, and the file of each that tells what it is of.
STORES, STORE_RECORD = "states", "states.json"
# Where steers lie that vLLM has been given as LoRAs, a folder for each mix and its strengths.
ADAPTERS = "adapters"
KINDS = ("models", "states", "fisher", ADAPTERS)


def cache_dir() -> Path:
    """``$LMSTEER_CACHE``, or else ``$XDG_CACHE_HOME/lmsteer``, or else ``~/.cache/lmsteer``."""
    if own := os.environ.get("LMSTEER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lmsteer"


def build_once(folder: Path, origin: dict[str, str], fill: Callable[[Path], None]) -> Path:
    """Have ``fill`` write ``folder``, unless an earlier run or another process has finished it."""
    if _is_complete(folder, origin["sha256"]):
        return folder
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
        say(f"{folder} is damaged or of another version of lmsteer; building it again ...")
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a killed run: the lock is ours
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
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        sizes: dict[str, int] = record["files"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return whole and record["format"] == _FORMAT and record["sha256"] == digest
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that is building {folder} ...")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    Attributes:
        path: of its folder or file.
        kind: ``models``, ``states`` (stores of hidden states), ``fisher`` or ``adapters`` (LoRAs for vLLM).
        about: what it is of.
        size: in bytes.
    """

    path: Path
    kind: str
    about: str
    size: int


def entries() -> list[Entry]:
    """What the cache holds, by kind."""
    root = cache_dir()
    found = [
        *(("models", record.parent, record.parent.name) for record in root.glob(f"[!.]*/{_RECORD}")),
        *(("states", record.parent, _contents(record)) for record in root.glob(f"{STORES}/*/{STORE_RECORD}")),
        *(("fisher", file, file.stem) for file in root.glob("fisher-*.safetensors")),
        *((ADAPTERS, config.parent, config.parent.name) for config in root.glob(f"{ADAPTERS}/*/adapter_config.json")),
    ]
    return [Entry(path, kind, about, size_of(path)) for kind, path, about in sorted(found)]


def clear(kind: str) -> list[Entry]:
    """Remove what the cache holds of a kind, or ``all``; gives what was removed.

    Raises:
        ModelError: no such kind, or something that cannot be removed.
    """
    if kind not in ("all", *KINDS):
        raise ModelError(f"the cache holds {', '.join(KINDS)}, or all of them, not {kind!r}.")
    removed = [entry for entry in entries() if kind in ("all", entry.kind)]
    try:
        for entry in removed:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"cannot clear the cache: {error}.") from error
    return removed


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(_bytes(file) for file in files)


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:
        return 0  # gone meanwhile


def _contents(record: Path) -> str:
    try:
        about = json.loads(record.read_text(encoding="utf-8"))
        return f"{about['texts']:,} texts, {about['tokens']:,} tokens of {about['base']}"
    except (OSError, ValueError, KeyError, TypeError):
        return record.parent.name


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def say(message: str) -> None:
    """Tell the user on standard error."""
    print(message, file=sys.stderr, flush=True)
