"""Generation: prompts × strengths × samples, in batches, with a dial for each row.

Every row draws from its own stream of random numbers, which the seed, the prompt's place and the sample's number
fix. So a row is the same, but for rounding, whatever else is in its batch, and the same sample at two strengths differs
by the strength alone. A prompt runs through the model once, whatever the number of its samples and strengths: they
start from its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.decoding import Prefill, PromptPrefill, Row, decode_rows, prefill_shared
from lmsteer.generation.sampling import LogLikelihoodRecorder, RowSampler
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


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


@torch.inference_mode()
def generate(
    lm: LM,
    prompts: Sequence[str],
    steers: Mapping[str, Steer] | None = None,
    strengths: Sequence[Mapping[str, float]] = ({},),
    config: GenerationConfig = GenerationConfig(),
    *,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue each prompt at each setting of the strengths, with ``config.num_samples`` continuations for each.

    Args:
        lm: the model.
        prompts: the texts to continue.
        steers: the steers, by name; none by default.
        strengths: the settings. Each holds a strength for every steer; 0 is unsteered.
        config: how many samples, how long, and how tokens are drawn.
        progress: reports how far the work is.

    Yields:
        The continuations in order of prompt, then setting, then sample.

    Raises:
        DataError: there are no prompts, or one is empty or longer than the model's context.
        SteerError: a strength is missing or not a finite number.
        WrongBaseError: a steer was fitted on another base.
    """
    starts = PromptPrefill(lm, encode_prompts(lm, prompts, config.max_new_tokens))
    yield from continue_from(lm, prompts, starts, steers or {}, strengths, config, progress=progress)


@torch.inference_mode()
def continue_from(
    lm: LM,
    prompts: Sequence[str],
    starts: Prefill,
    steers: Mapping[str, Steer],
    strengths: Sequence[Mapping[str, float]],
    config: GenerationConfig,
    *,
    first: int = 0,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue prompts from wherever they start, as ``generate`` does from the prompts alone.

    Of prompts that are a part of more, ``first`` is the number of the first one, on which samples hang.
    """
    for setting in strengths:
        Mix(steers, setting)  # refuses bad strengths before any work is done
    size = 1 if starts.one_by_one(config.max_new_tokens) else config.batch_size
    rows = [
        Row(i, tuple(setting[name] for name in steers), k)
        for i in range(len(prompts))
        for setting in strengths
        for k in range(config.num_samples)
    ]
    with progress("generating", len(rows), 0) as step:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            with lm.exclusive_use(), starts.installed():  # not across a yield: meanwhile the model is anybody's
                done = _continue_batch(lm, prompts, starts, steers, batch, config, first)
            step(len(batch), "")
            yield from done


def perplexity(continuations: Sequence[Continuation]) -> float:
    """exp of the mean negative log-likelihood a token under the unsteered model."""
    tokens = sum(c.tokens for c in continuations)
    return math.exp(-sum(c.log_p for c in continuations) / tokens) if tokens else math.nan


def _continue_batch(
    lm: LM,
    prompts: Sequence[str],
    starts: Prefill,
    steers: Mapping[str, Steer],
    batch: Sequence[Row],
    config: GenerationConfig,
    first: int,
) -> list[Continuation]:
    columns = list(zip(*(row.strengths for row in batch), strict=True))
    mix = Mix(steers, dict(zip(steers, columns, strict=True)))
    uniform = torch.stack([row.uniform(config.seed, config.max_new_tokens, first) for row in batch])
    sampler = RowSampler(uniform, config.sampling, lm.stop_ids)
    scorer = LogLikelihoodRecorder(lm, sampler)
    start = prefill_shared(lm, [row.prompt for row in batch], starts)
    with lm.steered(mix) as handle, lm.head.module.register_forward_pre_hook(scorer.hook, prepend=True):
        written = decode_rows(lm, start, config.max_new_tokens, sampler, [scorer] if config.score else [], handle)
    texts = lm.tokenizer.batch_decode(written[:, start["input_ids"].shape[1] :], skip_special_tokens=True)
    log_p = scorer.log_p.tolist() if config.score else [math.nan] * len(batch)
    return [
        Continuation(prompts[row.prompt], text, dict(zip(steers, row.strengths, strict=True)), row.sample, int(k), p)
        for row, text, k, p in zip(batch, texts, sampler.tokens, log_p, strict=True)
    ]


def encode_prompts(lm: LM, prompts: Sequence[str], new: int, first: int = 0) -> list[list[int]]:
    """Ids of prompts, with room for ``new`` tokens after each; ``first`` is the number of the first one among more.

    Raises:
        DataError: there are none, or one is empty or too long.
    """
    if not prompts:
        raise DataError("no prompts: give some as arguments, in a file, or on standard input.")
    ids = lm.encode(prompts)
    for number, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True), first + 1):
        if not tokens:
            raise DataError(f"prompt {number} is empty: there is nothing to continue.")
        if len(tokens) + new > lm.max_length:
            raise DataError(
                f"prompt {number} ({prompt[:40]!r}...) has {len(tokens)} tokens; with {new} new ones it is longer "
                f"than the model's context of {lm.max_length}."
            )
    return ids
