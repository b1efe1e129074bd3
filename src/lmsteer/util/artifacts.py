"""Artifacts: folders of tensors with a JSON card, as steers, adapters and baselines are saved and shared.

Nothing in them is ever unpickled. A folder is written aside and renamed, so that an older one stays until the new one
is complete. The card can be read without importing torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsteer.errors import LMSteerError
from lmsteer.util.files import check_writable, replace_folder, writing
from lmsteer.util.records import FormatError, Record, parse_json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ArtifactKind:
    """A kind of artifact.

    Attributes:
        what: what it is called in messages: "steer", "gist adapter".
        card_file: the name of its JSON file, by which its folders are recognised.
        tensors_file: the name of its safetensors file.
        version: the version of its format.
        error: the exception that is raised about it.
    """

    what: str
    card_file: str
    tensors_file: str
    version: int
    error: type[LMSteerError]

    def check_target(self, folder: Path) -> None:
        """Refuse to save over something else.

        Raises:
            LMSteerError: the folder holds other files, or is no folder.
            OutputError: it cannot be written.
        """
        check_overwrite(folder, self.what, self.card_file, {self.card_file, self.tensors_file}, self.error)

    def save(self, folder: Path, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write an artifact; an older one in the same folder stays until the new one is complete.

        Raises:
            LMSteerError: the folder holds something else.
            OutputError: the disk cannot be written.
        """
        from safetensors.torch import save_file

        self.check_target(folder)
        needed = sum(tensor.nbytes for tensor in tensors.values())
        with writing(folder, f"the {self.what}", needed), replace_folder(folder) as aside:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / self.tensors_file)
            (aside / self.tensors_file).chmod(0o644)  # safetensors writes 0600, but artifacts are shared
            content = json.dumps({"format": self.version, **record}, indent=2) + "\n"
            (aside / self.card_file).write_text(content, encoding="utf-8")

    def read_record(self, folder: Path) -> Record:
        """Read the card file alone.

        Raises:
            LMSteerError: there is none, it is damaged, or it has another version.
        """
        with self.explained(folder):
            content = parse_json((folder / self.card_file).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise FormatError(f"{self.card_file} holds no JSON object")
            record = Record(content)
            if record["format"] != self.version:
                raise FormatError(f"format {record['format']}, which this version of lmsteer does not know")
            return record

    @contextmanager
    def reading(self, folder: Path) -> Iterator[tuple[Record, dict[str, Tensor]]]:
        """The card file and the tensors, within a ``with`` block that builds the artifact from them.

        A ``FormatError`` or an ``LMSteerError`` of the block is reported as a damaged folder; other exceptions of the
        block are faults of the program and pass unchanged.

        Raises:
            LMSteerError: there is no such artifact in the folder, or it is damaged.
        """
        from safetensors.torch import load_file

        record = self.read_record(folder)
        with self.explained(folder):
            tensors = load_file(folder / self.tensors_file)
        with self.explained(folder):
            try:
                yield record, tensors
            except LMSteerError as error:
                raise self.error(f"the {self.what} in {folder} is damaged: {error}") from error

    @contextmanager
    def explained(self, folder: Path) -> Iterator[None]:
        """Report what goes wrong with the files of a folder within a ``with`` block as this kind's error."""
        from safetensors import SafetensorError

        try:
            yield
        except FileNotFoundError as error:
            missing = error.filename or self.tensors_file  # safetensors does not name the file
            raise self.error(f"no {self.what} in {folder}: {missing} is missing.") from error
        except (OSError, UnicodeDecodeError, FormatError, SafetensorError) as error:
            raise self.error(f"the {self.what} in {folder} is damaged: {type(error).__name__}: {error}.") from error


def check_overwrite(target: Path, what: str, marker: str, own: Collection[str], error: type[LMSteerError]) -> None:
    """Refuse to write a folder over something that was not written by the same command.

    Args:
        target: the folder that is about to be replaced; it need not exist.
        what: what is about to be written, in words: "steer".
        marker: the file by which a folder of that kind is recognised.
        own: the names of all files that such a folder may have; hidden files are allowed, too.
        error: the exception to raise.

    Raises:
        LMSteerError: the target is a file, or holds other files.
        OutputError: it cannot be written.
    """
    try:
        held = {entry.name for entry in target.iterdir()} if target.exists() else set()
    except NotADirectoryError as reason:
        raise error(f"{target} exists and holds no {what}; choose another folder.") from reason
    except OSError as reason:
        raise error(f"cannot use {target}: {reason}.") from reason
    if held and marker not in held:
        raise error(f"{target} exists and holds no {what}; choose another folder.")
    others = sorted(name for name in held - set(own) if not name.startswith("."))
    if others:
        raise error(f"{target} holds {', '.join(others)} beside its {what}; move that, or choose another folder.")
    check_writable(target, f"the {what}", folder=True)
