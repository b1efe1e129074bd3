"""Files and folders that are replaced whole, so that neither a crash nor a full disk leaves half of one.

New content is written aside, forced to the disk and renamed into place: after a power failure there is either the old
content or the new one. ``exclusive`` keeps a second process from the same work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmsteer.errors import DataError, OutputError
from lmsteer.util.escapes import ESCAPES

# Of Linux's renameat2: paths are relative to the working folder; the two names are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


# What a disk without room, or without room for this user, answers.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How safetensors names an error of the system, and what torch says when a file cannot be written.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = re.compile("PytorchStreamWriter|iostream error")
# Folders in which the system names processes, streams and settings of its own.
_OF_SYSTEM = ("/proc", "/sys")
# The length of a name within the names of what is written aside, which have to be longer.
_NAME_KEPT = 40


@contextmanager
def writing(path: Path, what: str = "", needed: int = 0) -> Iterator[None]:
    """Report what goes wrong with a disk within a ``with`` block as an ``OutputError``.

    Args:
        path: the file or folder that is written.
        what: what is written, in words: "the steer".
        needed: its size in bytes, if it is known.

    Raises:
        OutputError: the block raised an ``OSError``, or what safetensors and torch raise in its place.
    """
    try:
        yield
    except Exception as error:
        from safetensors import SafetensorError

        if not isinstance(error, (OSError, SafetensorError)) and not _TORCH_WRITER.search(str(error)):
            raise
        named = f"{what} to {path}" if what else str(path)
        raise OutputError(f"cannot write {named}: {_reason(error, path, needed)}.") from error


def _reason(error: Exception, path: Path, needed: int) -> str:
    named = _SYSTEM_ERROR.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(named[1]) if named else None
    reason = (error.strerror if isinstance(error, OSError) else named and os.strerror(int(named[1]))) or str(error)
    if number not in _FULL and "No space left" not in reason and not _TORCH_WRITER.search(reason):
        return reason
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(_existing(path)).free
        wanted = f"{needed / 1e6:,.1f} MB are needed, " if needed else ""
        return f"{reason} ({wanted}{free / 1e6:,.1f} MB are free)"
    return reason


def check_writable(path: Path, what: str = "", *, folder: bool = False) -> None:
    """Refuse a place where no file, or no folder, can be written, before the work that is to be written there.

    Args:
        path: the file or folder; neither it nor the folders above it need exist.
        what: what will be written, in words: "the steer".
        folder: whether it will be a folder.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path, what):
        _check_place(path, folder=folder)
        above = _existing(path.absolute().parent)
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"the folder {above} is read-only")
        above.joinpath(path.name).exists()  # an OSError for a name that is too long


def _check_place(path: Path, *, folder: bool) -> None:
    """Refuse to replace a folder by a file, a file by a folder, and a device by either; or to write below a file.

    A name like /dev/stdout may lead to a file, but is the name of a stream: it must not be replaced either.
    """
    above = _existing(path.absolute().parent)
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{above} is not a folder")
    if path.is_dir() and not folder:
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
    if folder and path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file; name a folder")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe; name a file that can be replaced")
    real = above.resolve()
    if real == Path(os.devnull).parent or any(real.is_relative_to(folder) for folder in _OF_SYSTEM):
        raise OSError(errno.EINVAL, f"{above} is for devices and streams of the system; choose another folder")


def _existing(path: Path) -> Path:
    """The path, or the lowest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))


def aside_prefix(path: Path) -> str:
    """The start of the names of what is written aside for a file or folder."""
    return f".{path.name[:_NAME_KEPT]}."


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to write into; it takes the place of ``folder`` if the block succeeds, else it is removed.

    On Linux the old folder and the new one are exchanged in one step, so that a reader finds one or the other at any
    moment. Elsewhere there is none between two renames.

    Raises:
        OSError: the disk cannot be written, or there is a file; what stood there is untouched.
    """
    folder = folder.absolute()
    _check_place(folder, folder=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=aside_prefix(folder), dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        _sync_tree(aside)
        if not os.path.lexists(folder):
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
    former = Path(tempfile.mkdtemp(prefix=f"{aside_prefix(folder)}former.", dir=folder.parent))
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
        OSError: the disk cannot be written, or there is a folder or a device; what stood there is untouched.
    """
    file = file.absolute()
    _check_place(file, folder=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=aside_prefix(file), dir=file.parent)
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
        OutputError: the disk cannot be written.
    """
    with writing(file), replace_file(file) as aside:
        aside.write_bytes(content.encode(errors=ESCAPES) if isinstance(content, str) else content)


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
        DataError: another process holds the lock.
        OutputError: the disk cannot be written.
    """
    file = path.absolute().with_name(f"{path.name}.lock")
    lock = FileLock(file)
    with writing(path):
        _check_place(file, folder=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise DataError(
                f"another process is writing {path}: wait until it has finished, or choose another name."
            ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while the lock is held: afterwards it could be another process's
        lock.release()
