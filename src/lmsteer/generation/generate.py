"""Generation: prompts × strengths × samples, in batches, with strengths of its own for each row.

Every row draws from its own stream of random numbers, which the seed, the prompt's number and the sample's number
determine. So a row is the same (but for rounding) whatever else is in its batch, and one sample at two strengths
differs by the strength alone. A prompt runs through the model once, whatever the number of its samples and strengths:
they all start from its cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lmsteer.data.chats import AnyPrompt, Chat, Prompt, as_prompt
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.detokenizer import Detokenizer, before_stop
from lmsteer.generation.prefill import Prefill
from lmsteer.generation.readings import ReadingLog, TokenReading
from lmsteer.generation.row import Row, check_steering, row_noise
from lmsteer.generation.schedule import acting_strengths
from lmsteer.generation.writing import NotFiniteError, Written, write
from lmsteer.model.chat import encode_chat
from lmsteer.model.codec import shortened
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import AnyStrength, Strengths, parts_of
from lmsteer.util.progress import Progress, no_progress


@dataclass(frozen=True)
class Continuation:
    """One generated continuation of a prompt.

    Attributes:
        prompt: the prompt: a text, or a chat.
        text: the continuation, without special tokens, up to the first stop string.
        strengths: the strength of each steer.
        sample: the number of the sample among those of its prompt and strengths, from 0.
        tokens: the number of tokens drawn, with an end-of-text token or those of a stop string.
        log_p: the log-likelihood of these tokens under the unsteered model, in nats; nan if it was not asked for.
        readings: what is known of each of these tokens; none if that was not asked for.
    """

    prompt: Prompt
    text: str
    strengths: dict[str, AnyStrength]
    sample: int
    tokens: int
    log_p: float
    readings: tuple[TokenReading, ...] = ()


@torch.inference_mode()
def generate(
    lm: LM,
    prompts: Sequence[AnyPrompt],
    steers: Mapping[str, Steer] | None = None,
    strengths: Sequence[Strengths] = ({},),
    config: GenerationConfig = GenerationConfig(),
    *,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue each prompt at each setting of the strengths, with ``config.num_samples`` continuations for each.

    Args:
        lm: the model.
        prompts: the texts to continue; a chat, or a list of messages, is answered in the model's chat template.
        steers: the steers, by name; none by default.
        strengths: the settings. Each holds a strength for every steer: a number (0 is unsteered), one within a window
            (``Windowed``), or a reading to hold (``Hold``).
        config: how many samples, how long, and how tokens are drawn.
        progress: reports how far the work is.

    Yields:
        The continuations in order of prompt, then setting, then sample.

    Raises:
        DataError: there are no prompts, or one is empty, longer than the model's context, or has a token that the model
            cannot read; or a chat that the model has no template for; or a strength acts in a part of an answer that
            the model or the prompt does not have.
        NotFiniteError: the logits after a prompt are not finite numbers; the message names it and the strengths. The
            continuations before it have been given.
        SteerError: a strength is missing or not a finite number, or a hold is of a steer without a reader.
        WrongBaseError: a steer was fitted on another base.
    """
    given = [as_prompt(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]
    prefill = Prefill.of_ids(encode_prompts(lm, given, config.max_new_tokens))
    yield from continue_from(lm, given, prefill, steers or {}, strengths, config, progress=progress)


@torch.inference_mode()
def continue_from(
    lm: LM,
    prompts: Sequence[Prompt],
    prefill: Prefill,
    steers: Mapping[str, Steer],
    strengths: Sequence[Strengths],
    config: GenerationConfig,
    *,
    first_prompt: int = 0,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue prompts as ``generate`` does, from any state: after a gist, say, or under an adapter.

    Args:
        lm: the model.
        prompts: the prompts, for the results.
        prefill: the state that each of them starts from.
        steers: the steers, by name.
        strengths: the settings, as in ``generate``.
        config: as in ``generate``.
        first_prompt: the number of the first prompt, where the prompts are a part of more; samples depend on it.
        progress: reports how far the work is.

    Yields:
        The continuations in order of prompt, then setting, then sample.
    """
    for setting in strengths:
        # before any work is done
        check_steering(lm, steers, setting, config.max_new_tokens, limits=config.limits, readings=config.readings)
    wanted = [
        _Wanted(i, {name: setting[name] for name in steers}, k)
        for i in range(len(prompts))
        for setting in strengths
        for k in range(config.num_samples)
    ]
    thinking = [begins_thinking(lm, prompt, parts_of(strengths)) for prompt in prompts]

    def row_of(each: _Wanted) -> Row:
        return Row(
            prefill.starts[each.prompt],
            row_noise(config.seed, first_prompt + each.prompt, each.sample, config.max_new_tokens),
            steers,
            each.strengths,
            config.sampling,
            config.limits,
            readings=config.readings,
            is_thinking=thinking[each.prompt],
            stop=config.stop,
        )

    def continuation(text: Written) -> Continuation:
        each = wanted[text.row]
        if text.failed:
            acting = acting_strengths(lm, rows[text.row], text.ids)
            raise not_finite(lm, f"prompt {first_prompt + each.prompt + 1}", prompts[each.prompt], acting)
        return Continuation(
            prompts[each.prompt],
            before_stop(lm.codec.decode(text.ids), config.stop),
            each.strengths,
            each.sample,
            len(text.ids),
            text.log_p,
            tuple(_readings(lm, text, each.strengths, config.stop)),
        )

    rows = [*map(row_of, wanted)]
    written = write(lm, rows, config.batch_size, score=config.score, installed=prefill.installed)
    finished: dict[int, Written] = {}
    following = 0
    with progress("generating", len(rows), 0) as step:
        for texts in written:
            finished |= {text.row: text for text in texts}
            step(len(texts), "")
            while following in finished:
                yield continuation(finished.pop(following))
                following += 1


class _Wanted(NamedTuple):
    """A continuation that is wanted: the place of its prompt, its strengths, and the number of its sample."""

    prompt: int
    strengths: dict[str, AnyStrength]
    sample: int


def _readings(lm: LM, text: Written, steers: Iterable[str], stop: Sequence[str]) -> Iterator[TokenReading]:
    """The readings of a continuation, if there are any."""
    log, added = ReadingLog(steers), Detokenizer(lm.codec, stop)
    for place, (token, values) in enumerate(zip(text.ids, text.readings, strict=False), 1):
        yield log.add(token, added.add(token) + (added.end() if place == len(text.ids) else ""), values)


def not_finite(lm: LM, which: str, prompt: Prompt, acting: str = "") -> NotFiniteError:
    """The error of a row whose logits are not finite numbers.

    Args:
        lm: the model.
        which: which prompt the row continues, such as "prompt 3".
        prompt: that prompt.
        acting: the strengths at that token (``acting_strengths``); empty if none acts.
    """
    at = f"at {acting}: lower the strength" if acting else f"in {lm.model.dtype}: its weights may be damaged"
    advice = "or load the model in another dtype (bfloat16 or float32)."
    return NotFiniteError(
        f"{which} ({shortened(str(prompt))}): the model's logits are not finite numbers {at}, {advice}"
    )


def perplexity(continuations: Sequence[Continuation]) -> float:
    """The perplexity of continuations under the unsteered model, over all their tokens; nan if there are none.

    They must have been generated with ``GenerationConfig(score=True)``.
    """
    tokens = sum(c.tokens for c in continuations)
    return math.exp(-sum(c.log_p for c in continuations) / tokens) if tokens else math.nan


def encode_prompts(lm: LM, prompts: Sequence[Prompt], new_tokens: int, first_prompt: int = 0) -> list[list[int]]:
    """The token ids of prompts that leave room for new tokens in the model's context.

    Args:
        lm: the model.
        prompts: the prompts; chats are encoded up to where their answers begin.
        new_tokens: how many tokens shall fit after each.
        first_prompt: the number of the first prompt, for messages, where the prompts are a part of more.

    Raises:
        DataError: there are no prompts, or one is empty, too long, or has a token that the model cannot read; or a chat
            that the model's template cannot write.
    """
    if not prompts:
        raise DataError("no prompts: give some as arguments, in a file, or on standard input.")
    of_texts = iter(lm.encode([prompt for prompt in prompts if isinstance(prompt, str)]))
    ids = [
        next(of_texts) if isinstance(prompt, str) else _encode_chat(lm, prompt, number)
        for number, prompt in enumerate(prompts, first_prompt + 1)
    ]
    for number, (prompt, tokens) in enumerate(zip(prompts, ids, strict=True), first_prompt + 1):
        if not tokens:
            raise DataError(
                f"prompt {number} is empty, or the tokenizer finds no token in it: there is nothing to continue."
            )
        if len(tokens) + new_tokens > lm.max_length:
            raise DataError(
                f"prompt {number} ({str(prompt)[:40]!r}...) has {len(tokens)} tokens; with {new_tokens} new ones it is "
                f"longer than the model's context of {lm.max_length}."
            )
    return ids


def _encode_chat(lm: LM, chat: Chat, number: int) -> list[int]:
    try:
        return encode_chat(lm.codec, chat)
    except DataError as error:
        raise DataError(f"prompt {number} ({shortened(str(chat))}): {error}") from error
