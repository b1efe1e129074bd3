"""Folders that are sent around: tensors, and a JSON file that says what they are. Nothing in them is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.util.files import replace_folder


@dataclass(frozen=True)
class ArtifactKind:
    """A kind of folder.

    Attributes:
        what: it holds, in words.
        card_file: name of its JSON file, which tells it from other folders.
        tensors_file: name of its safetensors file.
        version: of the format.
        error: what is raised of such folders.
    """

    what: str
    card_file: str
    tensors_file: str
    version: int
    error: type[LMSteerError]

    def check_target(self, folder: Path) -> None:
        """Refuse a folder that holds something else, which saving there would remove.

        Raises:
            LMSteerError: it does, or it is no folder.
        """
        try:
            held = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        except NotADirectoryError as error:
            raise self.error(f"{folder} exists and holds no {self.what}; choose another folder.") from error
        except OSError as error:
            raise self.error(f"cannot use {folder}: {error}.") from error
        if held and self.card_file not in held:
            raise self.error(f"{folder} exists and holds no {self.what}; choose another folder.")
        others = sorted(name for name in held - {self.card_file, self.tensors_file} if not name.startswith("."))
        if others:
            names = ", ".join(others)
            raise self.error(f"{folder} holds {names} beside its {self.what}; move that, or choose another folder.")

    def save(self, folder: Path, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a folder; an older one stands until the new one is whole.

        Raises:
            LMSteerError: it holds something else, or the disk does not take it.
        """
        self.check_target(folder)
        try:
            with replace_folder(folder) as aside:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / self.tensors_file)
                (aside / self.tensors_file).chmod(0o644)  # safetensors writes 0600: it is to be shared
                content = json.dumps({"format": self.version, **told}, indent=2) + "\n"
                (aside / self.card_file).write_text(content, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise self.error(
                f"cannot write the {self.what} to {folder}: {error}. What stood there before is untouched."
            ) from error

    @contextmanager
    def reading(self, folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
        """Give what a folder tells, and its tensors, within a ``with`` block that makes something of them.

        Raises:
            LMSteerError: nothing of the kind there, or what the block cannot make anything of.
        """
        try:
            told = json.loads((folder / self.card_file).read_text(encoding="utf-8"))
            if told["format"] != self.version:
                raise ValueError(f"format {told['format']}, which this version does not know")
            yield told, load_file(folder / self.tensors_file)
        except FileNotFoundError as error:
            raise self.error(f"no {self.what} in {folder}: {error.filename} is missing.") from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self.error(f"the {self.what} in {folder} is damaged: {type(error).__name__}: {error}.") from error
