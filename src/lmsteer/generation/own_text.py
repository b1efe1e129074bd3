"""Text of the unsteered model itself, after its start token alone, in tokens."""

from __future__ import annotations

import torch

from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.generate import not_finite
from lmsteer.generation.row import Row
from lmsteer.generation.writing import write
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM

_BATCH = 192


def own_texts(lm: LM, texts: int, tokens: int, seed: int) -> list[list[int]]:
    """Texts that the unsteered model writes, each with the start token before it; to their end, if they have one.

    Args:
        lm: the model.
        texts: the number of texts.
        tokens: the length of a text in tokens, at most.
        seed: the seed of the random numbers.

    Raises:
        NotFiniteError: the model's logits are not finite numbers.
    """
    noise = torch.rand(texts, tokens, generator=torch.Generator().manual_seed(seed))
    rows = [Row(Start([lm.start_id]), own, sampling=SamplingConfig(top_p=0.95)) for own in noise]
    found: list[list[int]] = [[] for _ in rows]
    for written in write(lm, rows, _BATCH):
        for text in written:
            if text.failed:
                raise not_finite(lm, "the start of a text", "")
            found[text.row] = [lm.start_id, *text.ids]
    return found
