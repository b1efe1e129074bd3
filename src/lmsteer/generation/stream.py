"""Streaming: one continuation, in chunks of text as they are generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from lmsteer.data.chats import AnyPrompt, as_prompt
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.generate import encode_prompts, not_finite
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


def stream(
    lm: LM,
    prompt: AnyPrompt,
    steers: Mapping[str, Steer] | None = None,
    strengths: Mapping[str, float] | None = None,
    config: GenerationConfig = GenerationConfig(),
) -> Iterator[str]:
    """Continue one prompt: the text that ``generate`` gives for it, in chunks as soon as they are certain.

    Each chunk is generated when it is asked for. Between two of them the model is free.

    Args:
        lm: the model.
        prompt: the text to continue, or the chat to answer.
        steers: the steers, by name; none by default.
        strengths: a strength for each steer.
        config: how long the continuation is and how tokens are drawn, as in ``generate``. There is one sample, the
            first, and no score: ``num_samples``, ``batch_size`` and ``score`` have no effect.

    Raises:
        DataError: the prompt is empty, longer than the model's context, or has a token that the model cannot read.
        NotFiniteError: the logits are not finite numbers; the message names the strengths.
        SteerError: a strength is missing or not a finite number.
        WrongBaseError: a steer was fitted on another base.
    """
    mix = Mix(steers or {}, strengths or {})
    lm.check_base(mix)
    given = as_prompt(prompt)
    (ids,) = encode_prompts(lm, [given], config.max_new_tokens)
    noise = row_noise(config.seed, 0, 0, config.max_new_tokens)
    row = Row(Start(ids), noise, steers or {}, strengths or {}, config.sampling, config.limits)
    return _chunks(lm, row, given)


@torch.inference_mode()
def _chunks(lm: LM, row: Row, prompt: AnyPrompt) -> Iterator[str]:
    """The text that each token adds, where it adds any."""
    decoder, text = Decoder(lm), Detokenizer(lm.codec)
    decoder.admit([row])
    for _ in row.noise:
        with lm.exclusive_use():
            decoder.step()
        ((token,),) = decoder.look().tokens
        if token == OVERFLOW:
            raise not_finite(lm, "the prompt", as_prompt(prompt), row.strengths)
        if chunk := text.add(token):
            yield chunk
        if token in lm.stop_ids:
            break
    if rest := text.end():
        yield rest
