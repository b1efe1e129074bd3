"""Decoding: transformers' own loop over a batch of rows, from one prefill per prompt, with noise of each row's own.

What a model's cache and quirks need is left to transformers; which token is drawn is the sampler's decision. Two things
are added around the loop::

    rows         0  1  2  3  4  5       three rows continue prompt p0, three continue p1
    prompts      p0 p0 p0 p1 p1 p1

    prefill      p0 and p1 run once, all but their last tokens; their cache is copied: p0 p0 p0 p1 p1 p1
                 |
    decode       last tokens, then 16 new tokens of all rows          (a stretch)
                 |  rows 1 and 4 have drawn an end-of-text token: ids, masks, cache and strengths keep 0 2 3 5
    decode       16 new tokens of rows 0 2 3 5
                 |  ...
    result       (6, T + new tokens): rows that ended early are padded

The prefill is shared because samples and strengths of one prompt have the same past: a steer acts on the output
embeddings, which no cached key or value depends on. The batch shrinks between stretches, not at every token, because a
look at which rows have ended costs half as much as a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lmsteer.generation.sampling import RowSampler
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.steer.hook import SteerHandle
from lmsteer.util.compat import CACHE, standalone_generation_config
from lmsteer.util.seeds import stable_seed

# Tokens between two looks at which rows have ended.
_STRETCH = 16


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    Attributes:
        prompt: the index of the prompt that it continues.
        strengths: the strength of each steer.
        sample: which of the samples of its prompt and strengths it is, from 0.
    """

    prompt: int
    strengths: tuple[float, ...]
    sample: int

    def noise(self, seed: int, length: int, first_prompt: int = 0) -> Tensor:
        """The row's random numbers (T,) in [0, 1), which depend on the seed, the prompt and the sample alone.

        They are the same at every strength, in every batch, and in every version of Python.

        Args:
            seed: any integer.
            length: T, the number of tokens.
            first_prompt: the number of the first prompt, where the prompts are a part of more.
        """
        key = stable_seed(seed, first_prompt + self.prompt, self.sample)
        return torch.rand(length, generator=torch.Generator().manual_seed(key))


class Prefill(Protocol):
    """Where rows start: the state of some prompts, from which each row continues one."""

    def prompt_lengths(self) -> Sequence[int]:
        """The number of tokens of each prompt that the model has not processed yet."""
        ...

    def model_inputs(self, prompts: Sequence[int]) -> dict[str, Any]:
        """The arguments of the model's ``generate`` for rows that continue these prompts, one per row.

        They are ``input_ids`` (B, T) and ``attention_mask`` (B, T), padded on the left; ``position_ids`` (B, T) and a
        cache of what has been processed, where there is one.
        """
        ...

    def installed(self) -> AbstractContextManager[None]:
        """Prepare the model (install an adapter, say) for as long as a ``with`` block."""
        ...

    def needs_batches_of_one(self, new_tokens: int) -> bool:
        """Whether rows that write so many tokens must run one by one to be exact."""
        ...


@dataclass(frozen=True)
class PromptPrefill:
    """Rows that start at prompts of which nothing has been processed.

    Attributes:
        lm: the model.
        ids: the token ids of each prompt.
    """

    lm: LM
    ids: Sequence[Sequence[int]]

    def prompt_lengths(self) -> Sequence[int]:
        """The number of tokens of each prompt."""
        return [len(prompt) for prompt in self.ids]

    def model_inputs(self, prompts: Sequence[int]) -> dict[str, Any]:
        """The prompts (B, T), padded on the left, and their mask."""
        ids, mask = pad([self.ids[prompt] for prompt in prompts], self.lm.pad_id, self.lm.device, "left")
        return {"input_ids": ids, "attention_mask": mask}

    def installed(self) -> AbstractContextManager[None]:
        """Leave the model as it is."""
        return nullcontext()

    def needs_batches_of_one(self, new_tokens: int) -> bool:
        """Always False: padding on the left does not change what a row computes."""
        return False


def prefill_shared(lm: LM, prompts: Sequence[int], prefill: Prefill) -> dict[str, Any]:
    """Run each prompt once, all but its last token, and copy the cache to every row that continues it.

    Recurrent models have no cache that could be copied: their rows start from the prompts alone. So do rows that share
    no prompt.

    Args:
        lm: the model.
        prompts: the prompt that each row continues (B).
        prefill: the prompts.

    Returns:
        The arguments of the model's ``generate``, as ``Prefill.model_inputs`` describes them.
    """
    unique, lengths = list(dict.fromkeys(prompts)), prefill.prompt_lengths()
    if lm.is_recurrent or len(unique) == len(prompts) or min(lengths[prompt] for prompt in unique) < 2:
        return prefill.model_inputs(prompts)
    once = prefill.model_inputs(unique)
    prompt_of_row = torch.tensor([unique.index(prompt) for prompt in prompts], device=lm.device)
    tensors = {name: value for name, value in once.items() if isinstance(value, Tensor)}
    all_but_last = {name: value[:, :-1] for name, value in tensors.items()}
    cache = getattr(decode(lm, once | all_but_last, 1, []), CACHE)
    cache.reorder_cache(prompt_of_row)
    return {name: value[prompt_of_row] for name, value in tensors.items()} | {CACHE: cache}


def decode_rows(
    lm: LM,
    inputs: dict[str, Any],
    new_tokens: int,
    sampler: RowSampler,
    watchers: Sequence[LogitsProcessor],
    handle: SteerHandle,
) -> Tensor:
    """Continue the rows of a batch; rows that have ended leave it after each stretch.

    Args:
        lm: the steered model.
        inputs: where the rows start, as ``prefill_shared`` gives it.
        new_tokens: the maximum number of new tokens per row.
        sampler: draws the tokens, and keeps the rows that are left.
        watchers: processors that run after the sampler.
        handle: the steers; its strengths are reduced to the rows that are left.

    Returns:
        Token ids (B, T + ``new_tokens``), the prompts' included, padded on the right.
    """
    width = inputs["input_ids"].shape[1]
    sequences = torch.full((len(inputs["input_ids"]), width + new_tokens), lm.pad_id, device=lm.device)
    sequences[:, :width] = inputs["input_ids"]
    stretch = new_tokens if lm.is_recurrent else _STRETCH
    for first in range(0, new_tokens, stretch):
        output = decode(lm, inputs, min(stretch, new_tokens - first), [sampler, *watchers])
        ids, cache = output.sequences, getattr(output, CACHE)
        sequences[sampler.rows, : ids.shape[1]] = ids
        running = sampler.drop_ended().to(lm.device)
        if not len(running) or first + stretch >= new_tokens:
            break
        if len(running) < len(ids):
            cache.reorder_cache(running)
            handle.mix = handle.mix.for_rows(running)
        inputs = {"input_ids": ids[running], **_extended(inputs, ids.shape[1], running), CACHE: cache}
    return sequences


def _extended(inputs: dict[str, Any], width: int, running: Tensor) -> dict[str, Tensor]:
    """The attention mask, and positions where they were given, of the running rows, extended to a width."""
    new = width - inputs["attention_mask"].shape[1]
    extended = {"attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, new), value=1)[running]}
    if (positions := inputs.get("position_ids")) is not None:
        following = positions[:, -1:] + torch.arange(1, new + 1, device=positions.device)
        extended["position_ids"] = torch.cat([positions, following], 1)[running]
    return extended


def decode(
    lm: LM, inputs: dict[str, Any], new_tokens: int, processors: Sequence[LogitsProcessor], **options: Any
) -> GenerateDecoderOnlyOutput:
    """Run transformers' own greedy loop, in which the sampler has made the token that it drew the most likely one.

    What the model's generation config would do to the logits (a repetition penalty, say) does not apply: tokens are
    drawn from the model itself. Meanwhile other threads that use the model wait.

    Args:
        lm: the model, steered or not.
        inputs: where the rows start, as ``prefill_shared`` gives it.
        new_tokens: the maximum number of new tokens per row.
        processors: the sampler and what runs after it.
        options: further arguments of ``generate`` (a streamer, stopping criteria).
    """
    config = standalone_generation_config(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=lm.stop_ids or None,
        pad_token_id=lm.pad_id,
        return_dict_in_generate=True,
    )
    with lm.exclusive_use():
        return lm.model.generate(  # type: ignore[operator]
            **inputs, generation_config=config, logits_processor=LogitsProcessorList(processors), **options
        )
