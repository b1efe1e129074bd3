"""Generation from gists: each input is continued as if the whole prompt stood before it, at the price of G tokens.

Batches may hold inputs under one gist or under several, and steers turn each row's dial as they do elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, continue_from
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.gist import Gist
from lmsteer.model.kv_cache import CachePrefill
from lmsteer.model.lm import LM
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


@dataclass(frozen=True)
class GistPrefill(CachePrefill):
    """Rows begin at an input, each after a gist.

    Attributes:
        adapter: that made the gists.
    """

    adapter: GistAdapter

    @classmethod
    def of(cls, lm: LM, adapter: GistAdapter, gists: Sequence[Gist], ids: Sequence[Sequence[int]]) -> GistPrefill:
        """Inputs, each under its gist."""
        return cls(lm, [gist.kept for gist in gists], [gist.origin.end for gist in gists], ids, adapter)

    def installed(self) -> AbstractContextManager[None]:
        """The model with the adapter."""
        return self.adapter.installed(self.lm)


@torch.inference_mode()
def generate_from_gists(
    lm: LM,
    adapter: GistAdapter,
    gists: Sequence[Gist],
    inputs: Sequence[str],
    steers: Mapping[str, Steer] | None = None,
    strengths: Sequence[Mapping[str, float]] = ({},),
    draws: GenerationConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> Iterator[Continuation]:
    """Continue inputs, each under its gist.

    Args:
        lm: the adapter's base.
        adapter: that made the gists.
        gists: one for all inputs, or one for each.
        inputs: what follows the gist tokens, as text; it is given no token to start from.
        steers: steers by name.
        strengths: settings of the dial: a strength for every steer in each.
        draws: how much is written, and how; greedy decoding is a temperature of 0.
        progress: what to tell of the work.

    Yields:
        Continuations by input, then setting, then sample.

    Raises:
        DataError: no inputs, an empty one, one that is longer than what the gist leaves of the context, or not as many
            gists as inputs.
        WrongBaseError: gists or steers of another base or another adapter.
    """
    draws = draws or GenerationConfig()
    if len(gists) not in (1, len(inputs)):
        raise DataError(f"{len(gists)} gists for {len(inputs)} inputs: give one, or one for each.")
    for gist in gists:
        gist.check(lm, adapter)
    own = list(gists) * len(inputs) if len(gists) == 1 else gists
    ids = _encoded(lm, own, inputs, draws.max_new_tokens)
    starts = GistPrefill.of(lm, adapter, own, ids)
    yield from continue_from(lm, inputs, starts, steers or {}, strengths, draws, progress=progress)


def _encoded(lm: LM, gists: Sequence[Gist], inputs: Sequence[str], new: int) -> list[list[int]]:
    if not inputs:
        raise DataError("no inputs to continue.")
    ids = lm.encode(inputs, special=False)
    for number, (gist, tokens) in enumerate(zip(gists, ids, strict=True), 1):
        if not tokens:
            raise DataError(f"input {number} is empty: there is nothing to continue.")
        if gist.origin.end + len(tokens) + new > lm.max_length:
            raise DataError(
                f"input {number} has {len(tokens)} tokens; at the position that its prompt ends at, "
                f"{gist.origin.end}, and with {new} new ones it is longer than the model's context of {lm.max_length}."
            )
    return ids
