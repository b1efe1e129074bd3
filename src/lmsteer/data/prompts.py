"""Prompts in, continuations out, in the published formats.

Prompts come as plain lines or as JSONL: ``{"prompt": {"text": ..}}`` (published), ``{"prompt": ..}`` or
``{"text": ..}``.
Continuations go out as ``{"prompt": .., "generations": [{"text": ..}, ..]}``, a line for each prompt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmsteer.data.labelled import text_of
from lmsteer.errors import DataError
from lmsteer.generation.generate import Continuation
from lmsteer.util.files import write_file


def read_prompts(file: str | Path) -> list[str]:
    """Read prompts from a file, or from standard input for ``-``.

    Raises:
        DataError: the file cannot be read, holds no prompts, or a JSON line without one.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else text_of(Path(file))
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is not UTF-8: {error}.") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{file} holds no prompts.")
    return [_prompt(line, f"{file}, line {number}") for number, line in lines]


def as_published(continuations: Sequence[Continuation], each: int) -> list[dict[str, Any]]:
    """Continuations in the published format, one object for each prompt in turn, which has ``each`` of them."""
    return [
        {
            "prompt": {"text": continuations[first].prompt},
            "generations": [
                {"text": c.text, "strengths": c.strengths, "sample": c.sample}
                for c in continuations[first : first + each]
            ],
        }
        for first in range(0, len(continuations), each)
    ]


def write_jsonl(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write objects a line each, as ``write_file`` does."""
    write_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _prompt(line: str, place: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.rstrip("\r")
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}.") from error
    match row:
        case {"prompt": {"text": str(text)}} | {"prompt": str(text)} | {"text": str(text)}:
            return text
    raise DataError(f'{place}: no prompt; write {{"prompt": {{"text": ..}}}} or a plain line.')
