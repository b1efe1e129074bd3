"""Generation: prompts × strengths × samples, in batches, with a dial for each row.

Every row draws from its own stream of random numbers, which the seed, the prompt's place and the sample's number
fix. So a row is the same, but for rounding, whatever else is in its batch, and the same sample at two strengths differs
by the strength alone. A prompt runs through the model once, whatever the number of its samples and strengths: they
start from its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lmsteer.errors import DataError
from lmsteer.generation.decoding import Prefill, PromptPrefill, Row, decode_rows, prefill_shared
from lmsteer.generation.sampling import LogLikelihoodRecorder, RowSampler, SamplingConfig
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


@dataclass(frozen=True)
class GenerationConfig:
    """What is written for each prompt and setting, and how.

    Attributes:
        n: samples.
        max_new_tokens: of a continuation.
        sampling: what each token is drawn from.
        seed: of all random streams.
        batch_size: rows at once.
        score: also read ``log_p``.

    Raises:
        DataError: a setting out of range.
    """

    n: int = 1
    max_new_tokens: int = 20
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    batch_size: int = 64
    score: bool = False

    def __post_init__(self) -> None:
        for what, value, good in (
            ("the number of samples", self.n, self.n >= 1),
            ("the batch size", self.batch_size, self.batch_size >= 1),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1),
            ("top_p", self.sampling.top_p, 0 < self.sampling.top_p <= 1),
            ("top_k", self.sampling.top_k, self.sampling.top_k >= 0),
            ("the temperature", self.sampling.temperature, 0 <= self.sampling.temperature < math.inf),
        ):
            if not good:
                raise DataError(f"{what} cannot be {value}.")


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
    draws = GenerationConfig(n, max_new_tokens, SamplingConfig(top_p, top_k, temperature), seed, batch_size, score)
    starts = PromptPrefill(lm, encode_prompts(lm, prompts, max_new_tokens))
    yield from continue_from(lm, prompts, starts, steers or {}, strengths, draws, progress=progress)


@torch.inference_mode()
def continue_from(
    lm: LM,
    prompts: Sequence[str],
    starts: Prefill,
    steers: Mapping[str, Steer],
    strengths: Sequence[Mapping[str, float]],
    draws: GenerationConfig,
    *,
    first: int = 0,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue prompts from wherever they start, as ``generate`` does from the prompts alone.

    Of prompts that are a part of more, ``first`` is the number of the first one, on which samples hang.
    """
    for setting in strengths:
        Mix(steers, setting)  # refuses bad strengths before any work is done
    size = 1 if starts.one_by_one(draws.max_new_tokens) else draws.batch_size
    rows = [
        Row(i, tuple(setting[name] for name in steers), k)
        for i in range(len(prompts))
        for setting in strengths
        for k in range(draws.n)
    ]
    with progress("generating", len(rows), 0) as step:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            with starts.installed():  # not across a yield: meanwhile the model is anybody's
                done = _continue_batch(lm, prompts, starts, steers, batch, draws, first)
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
    draws: GenerationConfig,
    first: int,
) -> list[Continuation]:
    columns = list(zip(*(row.strengths for row in batch), strict=True))
    mix = Mix(steers, dict(zip(steers, columns, strict=True)))
    uniform = torch.stack([row.uniform(draws.seed, draws.max_new_tokens, first) for row in batch])
    sampler = RowSampler(uniform, draws.sampling, lm.end_ids)
    scorer = LogLikelihoodRecorder(lm, sampler)
    start = prefill_shared(lm, [row.prompt for row in batch], starts)
    with lm.steered(mix) as handle, lm.head.module.register_forward_pre_hook(scorer.hook, prepend=True):
        written = decode_rows(lm, start, draws.max_new_tokens, sampler, [scorer] if draws.score else [], handle)
    texts = lm.tokenizer.batch_decode(written[:, start["input_ids"].shape[1] :], skip_special_tokens=True)
    log_p = scorer.log_p.tolist() if draws.score else [math.nan] * len(batch)
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
