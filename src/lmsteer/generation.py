"""Generation: prompts × strengths × samples, in batches, with a dial for each row.

Every row draws from its own stream of random numbers, which the seed, the prompt's place and the sample's number
fix. So a row is the same, but for rounding, whatever else is in its batch, and the same sample at two strengths differs
by the strength alone. The loop itself is transformers' own ``generate``: a model's cache and quirks are its business.
A prompt runs through the model once, whatever the number of its samples and strengths: they start from its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from lmsteer.errors import DataError
from lmsteer.lm import LM
from lmsteer.progress import Progress, no_progress
from lmsteer.sampling import Recorder, RowSampler, Sampling, Scorer
from lmsteer.steers.mix import Mix
from lmsteer.steers.steer import Steer

# What this release of transformers calls the cache.
_CACHE = next(f.name for f in fields(GenerateDecoderOnlyOutput) if f.name in ("cache", "past_key_values"))


@dataclass(frozen=True)
class Continuation:
    """One row of a generation.

    Attributes:
        prompt: what was continued.
        text: the continuation, without special tokens.
        strengths: of each steer.
        sample: which of the samples of its prompt and strengths it is.
        tokens: how many tokens were drawn, an end of text included.
        log_p: their log-likelihood under the unsteered model, or nan where it was not asked for.
    """

    prompt: str
    text: str
    strengths: dict[str, float]
    sample: int
    tokens: int
    log_p: float


@dataclass(frozen=True)
class _Row:
    prompt: int
    strengths: tuple[float, ...]
    sample: int


@torch.inference_mode()
def generate(
    lm: LM,
    prompts: Sequence[str],
    steers: Mapping[str, Steer] | None = None,
    strengths: Sequence[Mapping[str, float]] = ({},),
    *,
    n: int = 1,
    max_new_tokens: int = 20,
    top_p: float = 0.9,
    top_k: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    score: bool = False,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue prompts, each at each setting of the strengths, ``n`` samples each.

    Args:
        lm: the model.
        prompts: texts to continue.
        steers: steers by name.
        strengths: settings of the dial: a strength for every steer in each.
        n: samples for each prompt and setting.
        max_new_tokens: of a continuation.
        top_p: draw from the smallest set of tokens that holds this much probability (nucleus sampling).
        top_k: draw from this many likeliest tokens; 0 for all. (transformers' own ``generate`` takes 50 if not told.)
        temperature: of the distribution; 0 always takes the likeliest token.
        seed: of all random streams.
        batch_size: rows at once.
        score: also read ``log_p``, at the price of the head's product once more a token.
        progress: what to tell of the work.

    Yields:
        Continuations by prompt, then setting, then sample.

    Raises:
        DataError: no prompts, an empty one, one longer than the context, or a setting out of range.
        SteerError: a strength that is not a finite number, or missing.
        WrongBaseError: a steer of another base.
    """
    steers = dict(steers or {})
    sampling = Sampling(top_p, top_k, temperature)
    _check(prompts, n, max_new_tokens, sampling, batch_size)
    for setting in strengths:
        Mix(steers, setting)  # refuses bad strengths before any work is done
    ids = lm.encode(prompts)
    _check_lengths(lm, prompts, ids, max_new_tokens)
    rows = [
        _Row(i, tuple(setting[name] for name in steers), k)
        for i in range(len(prompts))
        for setting in strengths
        for k in range(n)
    ]
    with progress("generating", len(rows), 0) as step:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            done = _generate_batch(lm, prompts, ids, steers, batch, seed, sampling, max_new_tokens, score)
            step(len(batch), "")
            yield from done


@torch.inference_mode()
def own_text(lm: LM, texts: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Text that the unsteered model writes from nothing: hidden states (N, d) and the tokens drawn after them (N,).

    Args:
        lm: the model.
        texts: how many texts.
        tokens: of each; a text that ends sooner counts to its end.
        seed: of the draws.
    """
    start = torch.full((texts, 1), lm.start_id, device=lm.device)
    uniform = torch.rand(texts, tokens, generator=torch.Generator().manual_seed(seed))
    sampler = RowSampler(uniform, Sampling(top_p=0.95), lm.end_ids)
    recorder = Recorder(lm, sampler)
    with lm.head.module.register_forward_pre_hook(recorder.hook, prepend=True):
        _write(lm, {"input_ids": start, "attention_mask": torch.ones_like(start)}, tokens, [sampler, recorder])
    return torch.cat(recorder.h).float(), torch.cat(recorder.drawn)


def perplexity(continuations: Sequence[Continuation]) -> float:
    """exp of the mean negative log-likelihood a token under the unsteered model."""
    tokens = sum(c.tokens for c in continuations)
    return math.exp(-sum(c.log_p for c in continuations) / tokens) if tokens else math.nan


def _generate_batch(
    lm: LM,
    prompts: Sequence[str],
    ids: Sequence[Sequence[int]],
    steers: Mapping[str, Steer],
    batch: Sequence[_Row],
    seed: int,
    sampling: Sampling,
    max_new_tokens: int,
    score: bool,
) -> list[Continuation]:
    columns = list(zip(*(row.strengths for row in batch), strict=True))
    mix = Mix(steers, dict(zip(steers, columns, strict=True)))
    uniform = torch.stack([_stream(seed, row, max_new_tokens) for row in batch])
    sampler = RowSampler(uniform, sampling, lm.end_ids)
    scorer = Scorer(lm, sampler)
    processors: list[LogitsProcessor] = [sampler, scorer] if score else [sampler]
    start = _start(lm, [row.prompt for row in batch], ids)
    with lm.steered(mix), lm.head.module.register_forward_pre_hook(scorer.hook, prepend=True):
        written = _write(lm, start, max_new_tokens, processors).sequences
    texts = lm.tokenizer.batch_decode(written[:, start["input_ids"].shape[1] :], skip_special_tokens=True)
    log_p = scorer.log_p.tolist() if score else [math.nan] * len(batch)
    return [
        Continuation(prompts[row.prompt], text, dict(zip(steers, row.strengths, strict=True)), row.sample, int(k), p)
        for row, text, k, p in zip(batch, texts, sampler.tokens, log_p, strict=True)
    ]


def _start(lm: LM, prompts: Sequence[int], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What ``generate`` starts from: the rows' prompts (B, T), and a cache of all of them but their last tokens.

    A prompt of several rows is run once, and its cache, whatever it is made of, copied to each of them.
    """
    unique = list(dict.fromkeys(prompts))
    padded, mask = _pad_left([ids[prompt] for prompt in unique], lm)
    place = torch.tensor([unique.index(prompt) for prompt in prompts], device=lm.device)
    rows = {"input_ids": padded[place], "attention_mask": mask[place]}
    if len(unique) == len(prompts) or min(len(ids[prompt]) for prompt in unique) < 2:
        return rows
    cache = getattr(_write(lm, {"input_ids": padded[:, :-1], "attention_mask": mask[:, :-1]}, 1, []), _CACHE)
    cache.reorder_cache(place)
    return rows | {_CACHE: cache}


def _write(lm: LM, start: dict[str, Any], tokens: int, processors: list[LogitsProcessor]) -> GenerateDecoderOnlyOutput:
    """transformers' own loop: takes the likeliest token, which the sampler has made the only one.

    What a model's own generation config would do to the logits (a repetition penalty, say) is set aside: the
    sampler draws from the model.
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
        )
    finally:
        lm.model.generation_config = own


def _stream(seed: int, row: _Row, length: int) -> Tensor:
    """Random numbers in [0, 1) of a row (T,), from seed, prompt and sample: the same at every strength."""
    key = hash((seed, row.prompt, row.sample)) & ((1 << 63) - 1)
    return torch.rand(length, generator=torch.Generator().manual_seed(key))


def _pad_left(ids: Sequence[Sequence[int]], lm: LM) -> tuple[Tensor, Tensor]:
    width = max(map(len, ids))
    padding = lm.pad_id
    padded = [[padding] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(padded, device=lm.device), torch.tensor(mask, device=lm.device)


def _check(prompts: Sequence[str], n: int, max_new_tokens: int, sampling: Sampling, batch_size: int) -> None:
    if not prompts:
        raise DataError("no prompts: give some as arguments, in a file, or on standard input.")
    for what, value, good in (
        ("the number of samples", n, n >= 1),
        ("the batch size", batch_size, batch_size >= 1),
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1),
        ("top_p", sampling.top_p, 0 < sampling.top_p <= 1),
        ("top_k", sampling.top_k, sampling.top_k >= 0),
        ("the temperature", sampling.temperature, 0 <= sampling.temperature < math.inf),
    ):
        if not good:
            raise DataError(f"{what} cannot be {value}.")


def _check_lengths(lm: LM, prompts: Sequence[str], ids: Sequence[Sequence[int]], new: int) -> None:
    for number, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True), 1):
        if not tokens:
            raise DataError(f"prompt {number} is empty: there is nothing to continue.")
        if len(tokens) + new > lm.max_length:
            raise DataError(
                f"prompt {number} ({prompt[:40]!r}...) has {len(tokens)} tokens; with {new} new ones it is longer "
                f"than the model's context of {lm.max_length}."
            )
