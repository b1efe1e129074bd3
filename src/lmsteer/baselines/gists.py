"""Gists of instructions: prompting whose instructions are compressed into the keys and values of a few tokens.

The instructions are those of ``prompting``. An adapter that was fitted on other instructions compresses them, and stays
installed while the model reads and generates after them. Between the two ends, keys and values are interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.soft_prompts import PrefixTuning
from lmsteer.data.chats import Prompt
from lmsteer.errors import DataError
from lmsteer.generation.prefill import Prefill
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import GistAdapter, find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import prompt_ids
from lmsteer.gist.gist import Gist
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class Gists(PrefixTuning):
    """Gists of both ends. Stored: keys and values (G, 2 · layers · heads · d_head); the card names the adapter."""

    @cached_property
    def adapter(self) -> GistAdapter:
        """The adapter that compressed the instructions.

        Raises:
            DataError: it is not where it was when the baseline was fitted, or the card does not name it.
        """
        if "adapter" not in self.card.fit:
            raise DataError("the card of this gist baseline names no gist adapter.")
        return find_adapter(str(self.card.fit["adapter"]))

    def prefill(self, lm: LM, prompts: Sequence[Prompt], strength: float, new_tokens: int) -> Prefill:
        """Prompts after the gist of a strength, as after any soft prompt, with the adapter installed."""
        prefill = super().prefill(lm, prompts, strength, new_tokens)
        return replace(prefill, installed=partial(self.adapter.installed, lm))

    def for_rows(self, lm: LM) -> Callable[[float], Start]:
        """Rows after the gist of a strength between -1 and 1, with the adapter.

        Raises:
            WrongBaseError: another base.
            ModelError: a model whose rows cannot have an adapter each, or an adapter that changes all weights.
        """
        adapter, start = self.adapter.for_rows(lm), super().for_rows(lm)
        return lambda strength: replace(start(strength), adapter=adapter)

    @torch.inference_mode()
    def log_likelihoods(self, lm: LM, texts: Sequence[Sequence[int]], strengths: Sequence[float]) -> Tensor:
        """Log-likelihood of each text (N,) after the gist of its strength.

        Raises:
            WrongBaseError: another base.
            DataError: a text is longer than the context that the gist leaves.
            SteerError: a strength beyond -1 and 1.
        """
        with self.adapter.installed(lm) if texts else nullcontext():
            return super().log_likelihoods(lm, texts, strengths)


def compressed_instructions(lm: LM, card: BaselineCard) -> Gists:
    """Compress the instructions ``fit["minus"]`` and ``fit["plus"]`` of the card by the adapter that it names.

    Raises:
        DataError: an instruction is missing or blank, or there is no such adapter.
        WrongBaseError: an adapter of another base.
        ModelError: a model that does not honour gist masks.
    """
    words = [str(card.fit.get(end, "")).strip() for end in ("minus", "plus")]
    if not all(words):
        raise DataError("gists need an instruction for each end.")
    name = str(card.fit.get("adapter", SHIPPED))
    gists = compress(lm, find_adapter(name), prompt_ids(lm, words))
    if any(gist.provenance.end != gist.tokens for gist in gists):
        raise DataError(f"{lm.name} depends on absolute positions: a gist cannot stand before texts of any position.")
    tensors = dict(zip(("minus", "plus"), map(_flat, gists), strict=True))
    return Gists(replace(card, fit={**card.fit, "adapter": name}), tensors)


def _flat(gist: Gist) -> Tensor:
    """Keys and values of all layers, a row for each gist token, as prefix tuning stores them."""
    layers = [part for pair in zip(gist.keys, gist.values, strict=True) for part in pair]
    return torch.stack(layers).permute(2, 0, 1, 3).flatten(1).float().cpu().contiguous()
