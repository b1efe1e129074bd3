"""Generation from gists: each input is continued as if its whole prompt stood before it, at the cost of G tokens.

A batch may hold inputs under one gist or under several, and each row has its own strengths of steers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, continue_from
from lmsteer.generation.prefill import Prefill
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.gist import Gist
from lmsteer.model.lm import LM
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths
from lmsteer.util.progress import Progress, no_progress


def gist_prefill(lm: LM, adapter: GistAdapter, gists: Sequence[Gist], ids: Sequence[Sequence[int]]) -> Prefill:
    """Rows that start with inputs in tokens, each after its gist, on the model with the adapter that made the gists."""
    starts = [replace(gist.start(), ids=own) for gist, own in zip(gists, ids, strict=True)]
    return Prefill(starts, partial(adapter.installed, lm))


@torch.inference_mode()
def generate_from_gists(
    lm: LM,
    adapter: GistAdapter,
    gists: Sequence[Gist],
    inputs: Sequence[str],
    steers: Mapping[str, Steer] | None = None,
    strengths: Sequence[Strengths] = ({},),
    config: GenerationConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue inputs, each after its gist.

    Args:
        lm: the adapter's base.
        adapter: the adapter that made the gists.
        gists: one for all inputs, or one for each.
        inputs: texts after the gist tokens; no start token is put before them.
        steers: steers by name.
        strengths: combinations of strengths, each with one for every steer.
        config: how continuations are generated; a temperature of 0 is greedy decoding.
        progress: where progress is reported.

    Yields:
        Continuations by input, then combination of strengths, then sample.

    Raises:
        DataError: no inputs, an empty one, one that is longer than the context after the gist, or another number of
            gists than of inputs.
        WrongBaseError: gists or steers of another base or another adapter.
    """
    config = config or GenerationConfig()
    if len(gists) not in (1, len(inputs)):
        raise DataError(f"{len(gists)} gists for {len(inputs)} inputs: give one, or one for each.")
    for gist in gists:
        gist.check(lm, adapter)
    own = list(gists) * len(inputs) if len(gists) == 1 else gists
    ids = _encode_inputs(lm, own, inputs, config.max_new_tokens)
    prefill = gist_prefill(lm, adapter, own, ids)
    yield from continue_from(lm, inputs, prefill, steers or {}, strengths, config, progress=progress)


def _encode_inputs(lm: LM, gists: Sequence[Gist], inputs: Sequence[str], new: int) -> list[list[int]]:
    if not inputs:
        raise DataError("no inputs to continue.")
    ids = lm.encode(inputs, special=False)
    for number, (gist, tokens) in enumerate(zip(gists, ids, strict=True), 1):
        if not tokens:
            raise DataError(
                f"input {number} is empty, or the tokenizer finds no token in it: there is nothing to continue."
            )
        if gist.provenance.end + len(tokens) + new > lm.max_length:
            raise DataError(
                f"input {number} has {len(tokens)} tokens; at the position that its prompt ends at, "
                f"{gist.provenance.end}, and with {new} new ones it is longer than the model's context of "
                f"{lm.max_length}."
            )
    return ids
