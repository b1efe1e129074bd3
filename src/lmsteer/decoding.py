"""Decoding: transformers' own loop, started from one prefill a prompt, with a random stream for every row.

A model's cache and quirks are transformers' business; what is drawn is the sampler's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lmsteer.lm import LM

# What this release of transformers calls the cache.
_CACHE = next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ("cache", "past_key_values"))


@dataclass(frozen=True)
class Row:
    """One row of a batch: which prompt, at which strengths of the steers, and which of its samples."""

    prompt: int
    strengths: tuple[float, ...]
    sample: int

    def uniform(self, seed: int, length: int) -> Tensor:
        """Its random numbers in [0, 1) (T,), from seed, prompt and sample: the same at every strength."""
        key = hash((seed, self.prompt, self.sample)) & ((1 << 63) - 1)
        return torch.rand(length, generator=torch.Generator().manual_seed(key))


def start_of(lm: LM, prompts: Sequence[int], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What ``generate`` starts from: the rows' prompts (B, T), and a cache of all of them but their last tokens.

    A prompt of several rows is run once, and its cache, whatever it is made of, copied to each of them.
    """
    unique = list(dict.fromkeys(prompts))
    padded, mask = _pad_left([ids[prompt] for prompt in unique], lm)
    place = torch.tensor([unique.index(prompt) for prompt in prompts], device=lm.device)
    rows = {"input_ids": padded[place], "attention_mask": mask[place]}
    if len(unique) == len(prompts) or min(len(ids[prompt]) for prompt in unique) < 2:
        return rows
    cache = getattr(write(lm, {"input_ids": padded[:, :-1], "attention_mask": mask[:, :-1]}, 1, []), _CACHE)
    cache.reorder_cache(place)
    return rows | {_CACHE: cache}


def write(
    lm: LM, start: dict[str, Any], tokens: int, processors: Sequence[LogitsProcessor], **options: Any
) -> GenerateDecoderOnlyOutput:
    """transformers' own loop: takes the likeliest token, which the sampler has made the only one.

    What a model's own generation config would do to the logits (a repetition penalty, say) is set aside: the
    sampler draws from the model.

    Args:
        lm: the model, steered or not.
        start: as ``start_of`` gives it.
        tokens: to write, at most.
        processors: the sampler, and what watches it.
        options: passed on (a streamer, stopping criteria).
    """
    own = lm.model.generation_config
    ends = lm.end_ids
    lm.model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=lm.pad_id)
    try:
        return lm.model.generate(  # type: ignore[operator]
            **start,
            do_sample=False,
            max_new_tokens=tokens,
            logits_processor=LogitsProcessorList(processors),
            return_dict_in_generate=True,
            **options,
        )
    finally:
        lm.model.generation_config = own


def _pad_left(ids: Sequence[Sequence[int]], lm: LM) -> tuple[Tensor, Tensor]:
    width = max(map(len, ids))
    padding = lm.pad_id
    padded = [[padding] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(padded, device=lm.device), torch.tensor(mask, device=lm.device)
