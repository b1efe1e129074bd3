"""Decoding: transformers' own loop, started from one prefill a prompt, with a random stream for every row.

A model's cache and quirks are transformers' business; what is drawn is the sampler's. The loop runs in stretches,
between which rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lmsteer.generation.sampling import RowSampler
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.steer.hook import SteerHandle
from lmsteer.util.compat import CACHE

# Tokens between two looks at which rows have ended: a look costs as much as half a token.
_STRETCH = 16


@dataclass(frozen=True)
class Row:
    """One row of a batch: which prompt, at which strengths of the steers, and which of its samples."""

    prompt: int
    strengths: tuple[float, ...]
    sample: int

    def uniform(self, seed: int, length: int, first: int = 0) -> Tensor:
        """Its random numbers in [0, 1) (T,), from seed, prompt and sample: the same at every strength.

        ``first`` is the number of the first prompt, where these are a part of more.
        """
        key = hash((seed, first + self.prompt, self.sample)) & ((1 << 63) - 1)
        return torch.rand(length, generator=torch.Generator().manual_seed(key))


class Prefill(Protocol):
    """Begins rows, each at one of some prompts."""

    def lengths(self) -> Sequence[int]:
        """How many tokens each prompt has that the model has not read."""
        ...

    def begin(self, prompts: Sequence[int]) -> dict[str, Any]:
        """What ``generate`` is given to start from these prompts, one a row."""
        ...

    def installed(self) -> AbstractContextManager[None]:
        """Have the model be what they need, for a batch."""
        ...

    def one_by_one(self, new: int) -> bool:
        """Whether rows that write so many tokens have to be run alone to be exact."""
        ...


@dataclass(frozen=True)
class PromptPrefill:
    """Rows begin at prompts, of which nothing has been read.

    Attributes:
        lm: the model.
        ids: of each prompt.
    """

    lm: LM
    ids: Sequence[Sequence[int]]

    def lengths(self) -> Sequence[int]:
        """In tokens."""
        return [len(prompt) for prompt in self.ids]

    def begin(self, prompts: Sequence[int]) -> dict[str, Any]:
        """The prompts (B, T), padded on the left, and their mask."""
        ids, mask = pad([self.ids[prompt] for prompt in prompts], self.lm.pad_id, self.lm.device, "left")
        return {"input_ids": ids, "attention_mask": mask}

    def installed(self) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()

    def one_by_one(self, new: int) -> bool:
        """Never."""
        return False


def prefill_shared(lm: LM, prompts: Sequence[int], starts: Prefill) -> dict[str, Any]:
    """What ``generate`` starts from: the rows' prompts (B, T), and a cache of all of them but their last tokens.

    A prompt of several rows is run once, and its cache copied to each of them; but for recurrent models, which start
    from the prompts alone.
    """
    unique, lengths = list(dict.fromkeys(prompts)), starts.lengths()
    if lm.is_recurrent or len(unique) == len(prompts) or min(lengths[prompt] for prompt in unique) < 2:
        return starts.begin(prompts)
    once = starts.begin(unique)
    place = torch.tensor([unique.index(prompt) for prompt in prompts], device=lm.device)
    tensors = {name: value for name, value in once.items() if isinstance(value, Tensor)}
    shorter = {name: value[:, :-1] for name, value in tensors.items()}
    cache = getattr(decode(lm, once | shorter, 1, []), CACHE)
    cache.reorder_cache(place)
    return {name: value[place] for name, value in tensors.items()} | {CACHE: cache}


def decode_rows(
    lm: LM,
    start: dict[str, Any],
    tokens: int,
    sampler: RowSampler,
    watchers: Sequence[LogitsProcessor],
    handle: SteerHandle,
) -> Tensor:
    """Prompts and what follows them (B, T + ``tokens``), padded on the right; a row that has ended costs no more.

    Args:
        lm: the model.
        start: as ``prefill_shared`` gives it.
        tokens: to write, at most.
        sampler: for the rows; it is told which of them are left, and so is ``handle``.
        watchers: processors that come after it.
        handle: of the steers at work.
    """
    width = start["input_ids"].shape[1]
    done = torch.full((len(start["input_ids"]), width + tokens), lm.pad_id, device=lm.device)
    done[:, :width] = start["input_ids"]
    stretch = tokens if lm.is_recurrent else _STRETCH
    for first in range(0, tokens, stretch):
        written = decode(lm, start, min(stretch, tokens - first), [sampler, *watchers])
        ids, cache = written.sequences, getattr(written, CACHE)
        done[sampler.rows, : ids.shape[1]] = ids
        left = sampler.drop_ended().to(lm.device)
        if not len(left) or first + stretch >= tokens:
            break
        if len(left) < len(ids):
            cache.reorder_cache(left)
            handle.mix = handle.mix.for_rows(left)
        start = {"input_ids": ids[left], **_extended(start, ids.shape[1], left), CACHE: cache}
    return done


def _extended(start: dict[str, Any], width: int, left: Tensor) -> dict[str, Tensor]:
    """Masks, and positions where they were told, of the rows that are left, up to a width."""
    new = width - start["attention_mask"].shape[1]
    found = {"attention_mask": torch.nn.functional.pad(start["attention_mask"], (0, new), value=1)[left]}
    if (positions := start.get("position_ids")) is not None:
        more = positions[:, -1:] + torch.arange(1, new + 1, device=positions.device)
        found["position_ids"] = torch.cat([positions, more], 1)[left]
    return found


def decode(
    lm: LM, start: dict[str, Any], tokens: int, processors: Sequence[LogitsProcessor], **options: Any
) -> GenerateDecoderOnlyOutput:
    """transformers' own loop: takes the likeliest token, which the sampler has made the only one.

    What a model's own generation config would do to the logits (a repetition penalty, say) is set aside: the
    sampler draws from the model.

    Args:
        lm: the model, steered or not.
        start: as ``prefill_shared`` gives it.
        tokens: to write, at most.
        processors: the sampler, and what watches it.
        options: passed on (a streamer, stopping criteria).
    """
    with lm.exclusive_use():
        own = lm.model.generation_config
        lm.model.generation_config = GenerationConfig(eos_token_id=lm.stop_ids or None, pad_token_id=lm.pad_id)
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
