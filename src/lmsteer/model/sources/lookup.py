"""Names and paths of models: what they stand for, found without fetching, converting or reading anything.

This module does not import torch, so that the command line can refuse a model at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lmsteer.errors import ModelError
from lmsteer.model.sources.pypi import PACKAGED

# Endings that no Hub id has: a name with one of them is a file that does not exist.
_FILE_ENDINGS = frozenset({".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json"})


class Location(NamedTuple):
    """What the name of a model stands for.

    Attributes:
        path: its folder or ``.gguf`` file on this machine; None for a packaged model and for a Hub id.
        name: the name of the model in the cards of steers.
    """

    path: Path | None
    name: str


def locate(model: str | Path) -> Location:
    """Find out what the name of a model stands for.

    Args:
        model: the name of a packaged model, a folder, a ``.gguf`` file, or a Hub id, tried in this order
            (``./smollm2`` names a folder of that name).

    Raises:
        ModelError: it is a path that does not exist or holds no model, or no name that a model can have.
    """
    if str(model) in PACKAGED:
        return Location(None, str(model))
    try:
        path = Path(model).expanduser()
        is_folder, is_file = bool(str(model)) and path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{str(model)!r:.120} is no path: {error!s:.200}") from error
    if is_folder:
        _check_folder(path)
        return Location(path, path.resolve().name)
    if is_file:
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is a file, but no .gguf file; name the folder that holds the whole model.")
        return Location(path, path.stem)
    check_hub_id(model)
    return Location(None, str(model))


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ModelError(
                f"the folder {path} holds an adapter of PEFT, and no model: merge it into its base "
                "(merge_and_unload, then save_pretrained) and name that folder. A LoRA on the output embedding alone "
                "is read as a steer by 'lmsteer import'."
            )
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"it holds {', '.join(ggufs)}: name that file" if ggufs else "name what save_pretrained wrote"
        raise ModelError(f"the folder {path} holds no config.json, so it is no model; {hint}.")


def check_hub_id(model: str | Path) -> None:
    """Refuse a name that no model on the Hub can have.

    Raises:
        ModelError: it is a path, or holds characters that no id can have.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    name = str(model)
    path_like = isinstance(model, Path) or name.startswith((".", "/", "~")) or name.endswith("/")
    if path_like or "\\" in name or name.count("/") > 1 or Path(name).suffix.lower() in _FILE_ENDINGS:
        raise ModelError(f"no such file or folder: {name!r:.120} (looked from {Path.cwd()})")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError(
            f"{name!r:.120} names no model: it is neither packaged ({', '.join(PACKAGED)}), "
            f"nor an existing folder or .gguf file, nor a Hub id ({error!s:.200})"
        ) from error
