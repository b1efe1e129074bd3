"""Continuations in the format of the published code: ``{"prompt": .., "generations": [{"text": ..}, ..]}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsteer.generation.generate import Continuation


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
