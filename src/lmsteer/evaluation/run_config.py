"""What a folder of kept work is of: told once, and held against what the next run asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError
from lmsteer.util.files import write_file


def settle(folder: Path, name: str, settings: dict[str, Any], what: str) -> None:
    """Keep the settings of a run, or see that they are those of the run before.

    Args:
        folder: of the work.
        name: of the file that keeps them.
        settings: for JSON.
        what: the folder holds, with its article.

    Raises:
        DataError: the folder holds something else, or work of other settings; or its file is damaged.
    """
    file, content = folder / name, json.dumps(settings, indent=1)
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}. Remove its folder, or choose another one.") from error
    if kept is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty and holds no {what.split()[-1]}; choose another folder.")
    if kept is not None:
        told = kept if isinstance(kept, dict) else {}
        if different := [key for key, value in json.loads(content).items() if told.get(key) != value]:
            named = ", ".join(key.replace("_", " ") for key in different)
            raise DataError(f"{folder} holds {what} of another {named}; remove it, or choose another folder.")
    write_file(file, content + "\n")
