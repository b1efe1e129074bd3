"""The file of a bulk run: it grows as ``OUT.partial``, and gets its name when it is complete. No torch is imported.

The first line of ``OUT.partial`` holds the run's configuration, by which an interrupted run is recognised; it is not
part of ``OUT``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError
from lmsteer.util.escapes import ESCAPES
from lmsteer.util.files import check_writable, replace_file
from lmsteer.util.records import parse_json
from lmsteer.util.run import differing_settings

Lines = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class PartialFile:
    """The output of a bulk run, while it is incomplete.

    Attributes:
        out: the file that it becomes.
        config: the run's configuration, as a JSON object; a run with another one is not resumed.
    """

    out: Path
    config: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """``OUT.partial``."""
        return partial_of(self.out)

    def open(self, *, resume: bool) -> int:
        """Start the file, or resume it; returns the number of lines that are there already.

        A line that was cut short when the run was killed is removed.

        Raises:
            DataError: see ``check_bulk_target``; or the file is of a run with another configuration.
            OSError: the disk cannot be read or written.
        """
        check_bulk_target(self.out, resume=resume)
        if not resume:
            self.path.write_bytes(self._head())
            return 0
        with self.path.open("rb+") as file:
            self._check(file.readline())
            lines, end = 0, file.tell()
            for line in file:
                if line.endswith(b"\n"):
                    lines, end = lines + 1, end + len(line)
            file.truncate(end)
        return lines

    def append(self, lines: Lines) -> None:
        """Add lines, and force them to the disk."""
        with self.path.open("a", encoding="utf-8", errors=ESCAPES) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    def complete(self) -> None:
        """Give the file its name."""
        with self.path.open("rb") as source, replace_file(self.out) as aside, aside.open("wb") as target:
            source.readline()
            while block := source.read(1 << 20):
                target.write(block)
        self.path.unlink()

    def _head(self) -> bytes:
        return json.dumps({"config": self.config}, sort_keys=True).encode() + b"\n"

    def _check(self, head: bytes) -> None:
        try:
            config = parse_json(head)["config"]
            different = differing_settings(self.config, config)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.path} is damaged: remove it to start again.") from error
        if different:
            raise DataError(
                f"{self.path} is of a run with another {', '.join(different)}: remove it to start again, or choose "
                "another file."
            )


def partial_of(out: Path) -> Path:
    """The file that grows until the run is complete."""
    return out.with_name(f"{out.name}.partial")


def check_bulk_target(out: Path, *, resume: bool) -> None:
    """Refuse a file that a bulk run cannot be written to.

    Raises:
        DataError: there is nothing to resume, or an interrupted run is there and is not resumed.
        OutputError: it cannot be written, or is a folder.
    """
    check_writable(out)
    partial = partial_of(out)
    check_writable(partial)
    if resume and not partial.exists():
        raise DataError(f"nothing to resume: there is no {partial}.")
    if not resume and partial.exists():
        raise DataError(f"{partial} holds the output of an interrupted run: continue it with --resume, or remove it.")
