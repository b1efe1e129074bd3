"""Gists of instructions: prompting whose words have been squeezed into a few tokens' keys and values.

The words are those of ``prompting``; an adapter that was fitted on other instructions squeezes them, and is at work
while the model reads and writes under them. There is no dial: between the ends, keys and values are interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.soft_prompts import PrefixTuning
from lmsteer.errors import DataError
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import GistAdapter, find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import prompt_ids
from lmsteer.gist.generation import GistPrefill
from lmsteer.gist.gist import Gist
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class Gists(PrefixTuning):
    """Keys and values (G, 2 · layers · heads · d_head) of each end; the adapter is named on the card."""

    @cached_property
    def adapter(self) -> GistAdapter:
        """That squeezed the instructions.

        Raises:
            DataError: it is not where it was.
        """
        return find_adapter(str(self.card.fit["adapter"]))

    def prefill(self, lm: LM, prompts: Sequence[str], strength: float, new_tokens: int) -> GistPrefill:
        """Prompts after the gist of a strength, as after any soft prompt, with the adapter at work."""
        begun = super().prefill(lm, prompts, strength, new_tokens)
        return GistPrefill(begun.lm, begun.kept, begun.ends, begun.ids, self.adapter)

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Each text after the gist of its strength.

        Raises:
            WrongBaseError: another base.
            SteerError: a strength beyond -1 and 1.
        """
        with self.adapter.installed(lm) if texts else nullcontext():
            return super().log_likelihoods(lm, texts, strengths)


def compressed_instructions(lm: LM, card: BaselineCard) -> Gists:
    """The instructions that the card has under ``fit["minus"]`` and ``fit["plus"]``, squeezed by the adapter it names.

    Raises:
        DataError: an instruction that is missing or blank, or no adapter.
        WrongBaseError: an adapter of another base.
        ModelError: a model that cannot honour gist masks, or sees more of positions than distances.
    """
    words = [str(card.fit.get(end, "")).strip() for end in ("minus", "plus")]
    if not all(words):
        raise DataError("gists need an instruction for each end.")
    name = str(card.fit.get("adapter", SHIPPED))
    gists = compress(lm, find_adapter(name), prompt_ids(lm, words))
    if any(gist.origin.end != gist.tokens for gist in gists):
        raise DataError(f"{lm.name} sees more of positions than distances: a gist cannot stand before any text.")
    tensors = dict(zip(("minus", "plus"), map(_flat, gists), strict=True))
    return Gists(replace(card, fit={**card.fit, "adapter": name}), tensors)


def _flat(gist: Gist) -> Tensor:
    """Keys and values of all layers, a row for each gist token: as prefix tuning stores them."""
    layers = [part for pair in zip(gist.keys, gist.values, strict=True) for part in pair]
    return torch.stack(layers).permute(2, 0, 1, 3).flatten(1).float().cpu().contiguous()
