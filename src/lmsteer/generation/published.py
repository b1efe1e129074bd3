"""Continuations in the published format: ``{"prompt": {"text": ..}, "generations": [{"text": ..}, ..]}``.

Where a chat is answered, the prompt is ``{"messages": [..]}``. Where readings are asked for, a generation has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmsteer.data.chats import Prompt
from lmsteer.generation.generate import Continuation
from lmsteer.steer.strength import strengths_json


def published_prompt(prompt: Prompt) -> dict[str, Any]:
    """A prompt in the published format."""
    return {"text": prompt} if isinstance(prompt, str) else {"messages": prompt.to_json()}


def _readings(continuation: Continuation) -> dict[str, Any]:
    """What is known of each token, where that was asked for."""
    found = [reading.to_json() for reading in continuation.readings]
    return {"readings": found} if found else {}


def as_published(continuations: Sequence[Continuation], per_prompt: int) -> list[dict[str, Any]]:
    """Convert continuations to the published format: one object per prompt.

    Args:
        continuations: the continuations, those of one prompt together.
        per_prompt: the number of continuations of each prompt.
    """
    return [
        {
            "prompt": published_prompt(continuations[first].prompt),
            "generations": [
                {"text": c.text, "strengths": strengths_json(c.strengths), "sample": c.sample, **_readings(c)}
                for c in continuations[first : first + per_prompt]
            ],
        }
        for first in range(0, len(continuations), per_prompt)
    ]
