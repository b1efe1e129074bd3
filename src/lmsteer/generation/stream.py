"""Streaming: one continuation, in chunks of text, or token by token with readings, as they are generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from lmsteer.data.chats import AnyPrompt, as_prompt
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.generate import encode_prompts, not_finite
from lmsteer.generation.readings import ReadingLog, TokenReading
from lmsteer.generation.row import Row, check_steering, row_noise
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.generation.schedule import acting_strengths
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, parts_of


def stream(
    lm: LM,
    prompt: AnyPrompt,
    steers: Mapping[str, Steer] | None = None,
    strengths: Strengths | None = None,
    config: GenerationConfig = GenerationConfig(),
) -> Iterator[str]:
    """Continue one prompt: the text that ``generate`` gives for it, in chunks as soon as they are certain.

    Each chunk is generated when it is asked for. Between two of them the model is free.

    Args:
        lm: the model.
        prompt: the text to continue, or the chat to answer.
        steers: the steers, by name; none by default.
        strengths: a strength for each steer, as in ``generate``.
        config: how long the continuation is and how tokens are drawn, as in ``generate``. There is one sample, the
            first: ``num_samples``, ``batch_size``, ``score`` and ``readings`` have no effect.

    Raises:
        DataError: the prompt is empty, longer than the model's context, or has a token that the model cannot read;
            or a strength acts in a part of an answer that the model or the prompt does not have.
        NotFiniteError: the logits are not finite numbers; the message names the strengths.
        SteerError: a strength is missing or not a finite number, or a hold is of a steer without a reader.
        WrongBaseError: a steer was fitted on another base.
    """
    written = _started(lm, prompt, steers or {}, strengths or {}, config, readings=False)
    return (each.text for each in written if each.text)


def stream_readings(
    lm: LM,
    prompt: AnyPrompt,
    steers: Mapping[str, Steer] | None = None,
    strengths: Strengths | None = None,
    config: GenerationConfig = GenerationConfig(),
) -> Iterator[TokenReading]:
    """Continue one prompt as ``stream`` does, token by token, with what is known of each token.

    The texts of all tokens together are the continuation. Arguments and exceptions are those of ``stream``.
    """
    written = _started(lm, prompt, steers or {}, strengths or {}, config, readings=True)
    log = ReadingLog(steers or {})
    return (log.add(each.token, each.text, each.values) for each in written)


class _WrittenToken(NamedTuple):
    """A token, the text that has become certain with it, and its line in the table of readings."""

    token: int
    text: str
    values: Sequence[float]


def _started(
    lm: LM,
    prompt: AnyPrompt,
    steers: Mapping[str, Steer],
    strengths: Strengths,
    config: GenerationConfig,
    *,
    readings: bool,
) -> Iterator[_WrittenToken]:
    """The tokens of a continuation; what is wrong with the arguments is said at once."""
    check_steering(lm, steers, strengths, config.max_new_tokens, limits=config.limits, readings=readings)
    given = as_prompt(prompt)
    (ids,) = encode_prompts(lm, [given], config.max_new_tokens)
    noise = row_noise(config.seed, 0, 0, config.max_new_tokens)
    is_thinking = begins_thinking(lm, given, parts_of([strengths]))
    row = Row(
        Start(ids),
        noise,
        steers,
        strengths,
        config.sampling,
        config.limits,
        readings=readings,
        is_thinking=is_thinking,
        stop=config.stop,
    )
    return _tokens(lm, row, given)


@torch.inference_mode()
def _tokens(lm: LM, row: Row, prompt: AnyPrompt) -> Iterator[_WrittenToken]:
    decoder, text, written = Decoder(lm), Detokenizer(lm.codec, row.stop), list[int]()
    decoder.admit([row])
    for left in reversed(range(len(row.noise))):
        with lm.exclusive_use():
            decoder.step()
        look = decoder.look()
        ((token,),) = look.tokens
        if token == OVERFLOW:
            raise not_finite(lm, "the prompt", as_prompt(prompt), acting_strengths(lm, row, written))
        written.append(token)
        added = text.add(token)
        is_last = text.stopped or not left or token in lm.stop_ids
        yield _WrittenToken(token, added + (text.end() if is_last else ""), next(iter(look.readings[0]), ()))
        if is_last:
            break
