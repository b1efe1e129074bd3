"""Files and folders that are replaced whole, so that neither a crash nor a full disk leaves half of one.

New content is written aside, forced to the disk and renamed into place: after a power failure there is either the old
content or the new one. ``exclusive`` keeps a second process from the same work.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmsteer.errors import DataError

# Of Linux's renameat2: paths are relative to the working folder; the two names are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to write into; it takes the place of ``folder`` if the block succeeds, else it is removed.

    On Linux the old folder and the new one are exchanged in one step, so that a reader finds one or the other at any
    moment. Elsewhere there is none between two renames.

    Raises:
        OSError: the disk cannot be written; the old folder is untouched.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        _sync_tree(aside)
        if not folder.exists():
            aside.rename(folder)
        elif not _exchange(aside, folder):
            _rename_over(aside, folder)
        _sync(folder.parent)
    finally:
        _remove(aside)  # the old folder, if they were exchanged


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _rename_over(aside: Path, folder: Path) -> None:
    """Replace a folder in two renames; if the second fails, the old folder comes back."""
    former = Path(tempfile.mkdtemp(prefix=f".{folder.name}.former.", dir=folder.parent))
    folder.rename(former / folder.name)
    try:
        aside.rename(folder)
    except OSError:
        (former / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk; without it a power failure may leave an empty file."""
    if path.is_symlink() or (path.is_dir() and os.name == "nt"):  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it takes the place of ``file`` if the block succeeds, else it is removed.

    Raises:
        OSError: the disk cannot be written; the old file is untouched.
    """
    file = file.absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)
        _sync(aside)
        aside.replace(file)
        _sync(file.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_file(file: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; an older one stays until the new one is complete.

    Raises:
        DataError: the disk cannot be written.
    """
    try:
        with replace_file(file) as aside:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise DataError(f"cannot write {file}: {error}.") from error


def write_jsonl(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write objects as JSON, one per line, as ``write_file`` does."""
    write_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def finite(value: Any) -> Any:
    """The value with nan and infinities replaced by None, at any depth: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_sha256(file: Path) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock on a file or folder, so that no other process does the same work meanwhile.

    The lock is the file ``PATH.lock``. The system releases it if the process dies.

    Raises:
        DataError: another process holds the lock, or the disk cannot be written.
    """
    file = path.absolute().with_name(f"{path.name}.lock")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(
            f"another process is writing {path}: wait until it has finished, or choose another name."
        ) from error
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}.") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while the lock is held: afterwards it could be another process's
        lock.release()
