"""Files that are read again when they have changed, and the names that requests may call them by."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from lmsteer.errors import DataError, LMSteerError

T = TypeVar("T")
# Names come from clients, and a name must not lead out of the folder.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_folders_exist(folders: Sequence[Path], option: str) -> None:
    """Refuse what is no folder.

    Raises:
        DataError: a folder is missing, or a file.
    """
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise DataError(f"{option} names {', '.join(missing)}, which is not a folder.")


def unknown(kind: str, name: str, names: Sequence[str]) -> DataError:
    """What to tell a request that names what is not there.

    Args:
        kind: what it is, ``gist`` or ``baseline``; the server's option is its plural.
        name: the name in the request.
        names: the names of what is there.
    """
    advice = f"known {kind}s: {', '.join(names)}" if names else f"this server was started without --{kind}s"
    return DataError(f"unknown {kind} {name!r}; {advice}.")


def usable(names: Sequence[str], find: Callable[[str], T]) -> tuple[dict[str, T], list[str]]:
    """What is found under some names, and of what cannot be used now the reason, a sentence each."""
    found, reasons = dict[str, T](), list[str]()
    for name in names:
        try:
            found[name] = find(name)
        except LMSteerError as error:
            reasons.append(str(error))
    return found, reasons


class Saved(Generic[T]):
    """What was read from files. It may be used from any thread.

    Args:
        read: reads a file.
    """

    def __init__(self, read: Callable[[Path], T]) -> None:
        self._read = read
        self._known: dict[Path, tuple[int, T]] = {}
        self._lock = Lock()

    def get(self, file: Path) -> T:
        """What a file holds now.

        Raises:
            DataError: there is no such file any longer.
            LMSteerError: it cannot be read.
        """
        try:
            changed = file.stat().st_mtime_ns
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}.") from error
        with self._lock:
            known = self._known.get(file)
            if known is None or known[0] != changed:
                known = self._known[file] = (changed, self._read(file))
            return known[1]
