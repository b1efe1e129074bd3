"""The room that a method leaves for texts in the model's context."""

from __future__ import annotations

from collections.abc import Sequence

from lmsteer.errors import DataError
from lmsteer.model.lm import LM


def check_room(lm: LM, texts: Sequence[Sequence[int]], before: int = 0) -> None:
    """Refuse texts that are longer than the model's context.

    Args:
        lm: the model.
        texts: token ids of each text.
        before: number of tokens that a method puts in front of each.

    Raises:
        DataError: a text is too long.
    """
    for number, text in enumerate(texts, 1):
        if before + len(text) > lm.max_length:
            after = f" after {before} of the method" if before else ""
            raise DataError(
                f"text {number} has {len(text)} tokens{after}, more than the model's context of {lm.max_length}."
            )
