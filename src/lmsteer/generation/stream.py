"""Streaming: one continuation, piece by piece as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Event, Thread
from typing import Any

import torch
from transformers import StoppingCriteriaList, TextIteratorStreamer

from lmsteer.generation.decoding import PromptPrefill, Row, decode
from lmsteer.generation.generate import GenerationConfig, encode_prompts
from lmsteer.generation.sampling import RowSampler, SamplingConfig
from lmsteer.model.lm import LM
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


def stream(
    lm: LM,
    prompt: str,
    steers: Mapping[str, Steer] | None = None,
    strengths: Mapping[str, float] | None = None,
    *,
    max_new_tokens: int = 20,
    top_p: float = 0.9,
    top_k: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Continue a prompt: the text that ``generate`` gives for it, in pieces as soon as they are certain.

    The model is steered while the iterator is in use, and writes no further when it is dropped. Till then nothing else
    may use the model: it writes on its own, ahead of a slow reader.

    Args:
        lm: the model.
        prompt: text to continue.
        steers: steers by name.
        strengths: a strength for each.
        max_new_tokens: as in ``generate``, like all that follow.
        top_p: nucleus sampling.
        top_k: draw from this many likeliest tokens; 0 for all.
        temperature: of the distribution.
        seed: of the random stream.

    Raises:
        DataError: an empty prompt, one longer than the context, or a setting out of range.
        SteerError: a strength that is not a finite number, or missing.
        WrongBaseError: a steer of another base.
    """
    sampling = GenerationConfig(1, max_new_tokens, SamplingConfig(top_p, top_k, temperature)).sampling
    mix = Mix(steers or {}, strengths or {})
    lm.check_base(mix)
    ids = encode_prompts(lm, [prompt], max_new_tokens)
    sampler = RowSampler(Row(0, (), 0).uniform(seed, max_new_tokens)[None], sampling, lm.end_ids)
    return _pieces(lm, ids, mix, sampler, max_new_tokens)


def _pieces(lm: LM, ids: Sequence[Sequence[int]], mix: Mix, sampler: RowSampler, max_new_tokens: int) -> Iterator[str]:
    streamer = TextIteratorStreamer(lm.tokenizer, skip_prompt=True, skip_special_tokens=True)
    dropped, failed = Event(), list[BaseException]()

    def stop(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), dropped.is_set(), device=input_ids.device)

    @torch.inference_mode()
    def run() -> None:
        try:
            start, stopping = PromptPrefill(lm, ids).begin([0]), StoppingCriteriaList([stop])
            decode(lm, start, max_new_tokens, [sampler], streamer=streamer, stopping_criteria=stopping)
        except BaseException as error:  # handed to the thread that reads
            failed.append(error)
        finally:
            streamer.end()

    writer = Thread(target=run, daemon=True)
    with lm.steered(mix):
        writer.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            dropped.set()
            writer.join()
    if failed:
        raise failed[0]
