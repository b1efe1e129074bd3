"""Streaming: one continuation, in chunks of text as they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from lmsteer.data.chats import AnyPrompt, as_prompt
from lmsteer.errors import ModelError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.decoding import PromptPrefill, Row, decode
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.generate import encode_prompts, not_finite
from lmsteer.generation.sampling import NotFiniteError, RowSampler
from lmsteer.model.codec import Codec
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

    A thread of its own generates, ahead of a slow reader, and stops when the iterator is closed. Meanwhile other
    threads that steer or read the model wait.

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
        ModelError: the iterator is read within ``lm.steered``, whose end its thread would wait for.
        SteerError: a strength is missing or not a finite number.
        WrongBaseError: a steer was fitted on another base.
    """
    mix = Mix(steers or {}, strengths or {})
    lm.check_base(mix)
    given = as_prompt(prompt)
    ids = encode_prompts(lm, [given], config.max_new_tokens)
    noise = Row(0, (), 0).noise(config.seed, config.max_new_tokens)[None]
    sampler = RowSampler(noise, config.sampling, lm.stop_ids)
    overflowed = partial(not_finite, lm, "the prompt", given, strengths or {})
    return _chunks(lm, ids, mix, sampler, config.max_new_tokens, overflowed)


class _Streamer(BaseStreamer):
    """Takes the tokens of one row from the thread that generates, and gives their text to the one that reads.

    Args:
        codec: the model's tokenizer.
    """

    def __init__(self, codec: Codec) -> None:
        self._detokenizer, self._is_prompt = Detokenizer(codec), True
        self._texts: SimpleQueue[str | None] = SimpleQueue()

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt at first, then one token at a time."""
        if self._is_prompt:
            self._is_prompt = False
        else:
            self._texts.put(self._detokenizer.add(int(value)))

    def end(self) -> None:
        """Give the rest of the text; no token follows."""
        self._texts.put(self._detokenizer.end())

    def close(self) -> None:
        """End the text for the thread that reads."""
        self._texts.put(None)

    def texts(self) -> Iterator[str]:
        """The pieces of the text, as soon as they are certain."""
        return filter(None, iter(self._texts.get, None))


def _chunks(
    lm: LM,
    ids: Sequence[Sequence[int]],
    mix: Mix,
    sampler: RowSampler,
    new_tokens: int,
    overflowed: Callable[[], NotFiniteError],
) -> Iterator[str]:
    streamer = _Streamer(lm.codec)
    closed, errors = Event(), list[BaseException]()

    def stop(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), closed.is_set(), device=input_ids.device)

    @torch.inference_mode()
    def run() -> None:
        try:
            inputs, stopping = PromptPrefill(lm, ids).model_inputs([0]), StoppingCriteriaList([stop])
            with lm.steered(mix):
                decode(lm, inputs, new_tokens, [sampler], streamer=streamer, stopping_criteria=stopping)
        except NotFiniteError:
            errors.append(overflowed())
        except BaseException as error:  # raised again in the thread that reads
            errors.append(error)
        finally:
            streamer.close()

    if lm.exclusive_use().is_held_here:
        raise ModelError("a stream cannot be read within steered(): give stream() the steers and strengths instead.")
    generator = Thread(target=run, daemon=True)
    generator.start()
    try:
        yield from streamer.texts()
    finally:
        closed.set()
        generator.join()
    if errors:
        raise errors[0]
