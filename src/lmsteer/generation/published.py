"""Continuations in the published format: ``{"prompt": {"text": ..}, "generations": [{"text": ..}, ..]}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsteer.generation.generate import Continuation


def as_published(continuations: Sequence[Continuation], per_prompt: int) -> list[dict[str, Any]]:
    """Convert continuations to the published format: one object per prompt.

    Args:
        continuations: the continuations, those of one prompt together.
        per_prompt: the number of continuations of each prompt.
    """
    return [
        {
            "prompt": {"text": continuations[first].prompt},
            "generations": [
                {"text": c.text, "strengths": c.strengths, "sample": c.sample}
                for c in continuations[first : first + per_prompt]
            ],
        }
        for first in range(0, len(continuations), per_prompt)
    ]
