"""Files that are written aside and renamed, so that a kill or a full disk never leaves half of one."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmsteer.errors import DataError


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give a folder aside to write into; on success it takes the place of ``folder``, else it vanishes."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            former = Path(tempfile.mkdtemp(prefix=f".{folder.name}.former.", dir=folder.parent))
            folder.rename(former / folder.name)
            try:
                aside.rename(folder)
            except OSError:
                (former / folder.name).rename(folder)
                raise
            finally:
                shutil.rmtree(former, ignore_errors=True)
        else:
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def finite(value: Any) -> Any:
    """A value for JSON, which has no nan and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_file(file: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; an older one stands until the new one is whole.

    Raises:
        DataError: the disk does not take it.
    """
    try:
        with replace_file(file) as aside, aside.open("wb") as file_aside:
            file_aside.write(content.encode() if isinstance(content, str) else content)
            file_aside.flush()
            os.fsync(file_aside.fileno())  # or a power failure may leave the name with nothing in it
    except OSError as error:
        raise DataError(f"cannot write {file}: {error}.") from error


def write_jsonl(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write objects as JSON, one a line, as ``write_file`` does."""
    write_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """Give a path aside to write to; on success it takes the place of ``file``, else it vanishes."""
    file = file.absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from the same work: a lock lies beside it while it goes on.

    Raises:
        DataError: another is at it, or the disk does not take it.
    """
    file = path.absolute().with_name(f"{path.name}.lock")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise DataError(
            f"another process is at work on {path}: wait until it is done, or choose another name."
        ) from error
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}.") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held, so that nobody's own is removed
        lock.release()
