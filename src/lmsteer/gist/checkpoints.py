"""Checkpoints of an interrupted fit: whose they are, and which is the last."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from lmsteer.errors import DataError
from lmsteer.gist.examples import Example
from lmsteer.util.files import write_file

# Says what the checkpoints beside it are of.
_RECORD = "fit.json"


def last_checkpoint(partial: Path, record: dict[str, Any], resume: bool) -> str | None:
    """The last checkpoint to go on from; without one the folder is made anew, and told what it is for.

    Args:
        partial: folder of the checkpoints.
        record: what the fit is of, for JSON.
        resume: go on from what is there.

    Raises:
        DataError: the folder holds something else, is damaged, or keeps another fit than that to go on with.
    """
    file = partial / _RECORD
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        is_empty = not partial.exists() or not any(partial.iterdir())
    except (OSError, ValueError) as error:
        raise DataError(f"{partial} is damaged: {error}. Remove it.") from error
    if kept is None and not is_empty:
        raise DataError(f"{partial} exists and holds no checkpoints of a fit; move it, or choose another folder.")
    if resume and kept is not None:
        if different := [name for name in record if kept.get(name) != record[name]]:
            raise DataError(
                f"{partial} keeps a fit of other {', '.join(different)}: give what it was begun with, or begin anew "
                "without --resume."
            )
        return get_last_checkpoint(str(partial))
    shutil.rmtree(partial, ignore_errors=True)
    write_file(file, json.dumps(record, indent=1) + "\n")
    return None


def digest_of(examples: Sequence[Example]) -> str:
    """SHA-256 over examples in their order; 32 hex digits."""
    content = json.dumps([[each.prompt, each.rest, each.targets] for each in examples])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
