"""Resumable runs: the configuration of long work is kept beside its results, and only the same work resumes it.

A run has a folder. Its file ``run.json`` (or another name) holds the configuration: model and data fingerprints,
settings. When a run starts again, its configuration is compared with the one that is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError, InterruptedWorkError, OutputError
from lmsteer.util.files import check_writable, write_file
from lmsteer.util.records import parse_json


@dataclass(frozen=True)
class Run:
    """A resumable run.

    Attributes:
        folder: where its results are kept.
        config: what must be the same for the run to be resumed, as a JSON object.
        what: what the run is called in messages, with its article: "an evaluation".
        file: the name of the file that keeps the configuration.
    """

    folder: Path
    config: Mapping[str, Any]
    what: str = "a run"
    file: str = "run.json"

    @property
    def path(self) -> Path:
        """The file that keeps the configuration."""
        return self.folder / self.file

    def open(self) -> bool:
        """Start the run, or resume it: whether results of the same run are there already.

        Raises:
            DataError: the folder holds something else, a run of another configuration, or a damaged file.
        """
        is_resumed = self.check_folder()
        write_file(self.path, json.dumps(self.config, indent=1) + "\n")
        return is_resumed

    def check_folder(self) -> bool:
        """Refuse a folder that the run cannot have, without writing: whether results of the same run are there already.

        ``config`` may be a part of the whole configuration, as far as it is known before the work begins.

        Raises:
            DataError: the folder holds something else, a run of another configuration, or a damaged file.
            OutputError: it cannot be written.
        """
        check_writable(self.folder, folder=True)
        kept = self.kept()
        if kept is None:
            self._check_empty()
        else:
            self.check(kept)
        return kept is not None

    def kept(self) -> dict[str, Any] | None:
        """The configuration of an earlier run in the folder; None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        file = self.path
        try:
            kept = parse_json(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged: {error}. Remove {self.folder}, or choose another folder.") from error
        return {} if kept is not None and not isinstance(kept, dict) else kept

    def check(self, kept: Mapping[str, Any]) -> None:
        """Refuse to resume a run of another configuration.

        Raises:
            DataError: a setting differs, named in the message.
        """
        if different := differing_settings(self.config, kept):
            raise DataError(
                f"{self.folder} holds {self.what} with another {', '.join(different)}; remove it, or choose another "
                "folder."
            )

    def _check_empty(self) -> None:
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            noun = self.what.split()[-1]
            raise DataError(f"{self.folder} is not empty and holds no {noun}; choose another folder.")


def differing_settings(config: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """The names of the settings, in words, in which a configuration differs from one that was kept as JSON."""
    config = json.loads(json.dumps(config))  # tuples are lists in JSON
    return [key.replace("_", " ") for key, value in config.items() if kept.get(key) != value]


def kept_in(place: Path, what: str) -> str:
    """What an interrupted run leaves, and how it goes on.

    Args:
        place: the file or folder of its state; there is none if nothing is kept.
        what: the state, as "The statistics are".
    """
    if not place.exists():
        return "Nothing is kept: run the same command again."
    return f"{what} kept in {place}. The same command with --resume continues from there."


@contextmanager
def resumable(kept: str | Callable[[], str]) -> Iterator[None]:
    """Have Ctrl-C and a full disk within a ``with`` block say what is kept and how to continue.

    Args:
        kept: a whole sentence or two: "The statistics are kept in X. Run the same command with --resume."; or a
            function that gives them when Ctrl-C is pressed.

    Raises:
        InterruptedWorkError: the user pressed Ctrl-C.
        OutputError: the block raised one.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedWorkError(f"interrupted. {kept() if callable(kept) else kept}") from None
    except OutputError as error:
        raise OutputError(f"{error} {kept() if callable(kept) else kept}") from error
