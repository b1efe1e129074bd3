"""What is refused when a server starts, before a folder of gists or baselines is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmsteer.errors import ModelError
from lmsteer.generation.backends import backend_for
from lmsteer.model.lm import LM
from lmsteer.serving.starts.saved import check_folders_exist


def check_folders(lm: LM, folders: Sequence[Path], option: str) -> None:
    """Refuse what is no folder, and a model that has no rows side by side.

    Raises:
        DataError: a folder is missing, or a file.
        ModelError: the model writes one row at a time.
    """
    check_folders_exist(folders, option)
    if folders and backend_for(lm)[1] is not None:
        raise ModelError(f"{lm.name} writes one row at a time: nothing can stand before a row. Leave {option} out.")
