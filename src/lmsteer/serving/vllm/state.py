"""The dial of one worker process: strengths for each row of vLLM's batch, and what they do to hidden states and logits.

vLLM has two model runners. The first says before each forward pass which row is whose, so that hidden states move in
front of the head, as everywhere in lmsteer. The second says so only when the logits are there: then they move by what
the hidden states would have moved by, a product of rank r with ``E B`` (V, r) a steer, as a LoRA on the head does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lmsteer.model.head import HeadShard
from lmsteer.steer.mix import Mix, Steering, row_by_row
from lmsteer.steer.steer import Steer


class SteeringState:
    """Who of a batch is steered, and how.

    Attributes:
        rows: what requests that are steered asked for when they came, by row (first runner) or slot (second runner).
        late: whether rows are told only with their logits, as the second runner does.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Steering] = {}
        self.late = False
        self._size, self._armed = 0, False
        self._mix: Mix | None = None
        self._proved: dict[str, Steer] = {}
        self._seen: tuple[Tensor, HeadShard] | None = None
        self._above: dict[str, tuple[Steer, Tensor]] = {}

    def arm(self, size: int | None) -> None:
        """Be ready for the rows of the next pass: so many of them, or those of the last one if None.

        Only the first rows that come then are sampled from. What follows (log-likelihoods of prompts, say) and what
        comes unannounced (runs that try the memory) is left as it is.
        """
        if size is not None:
            self._size = size
            self._mix = self._mixed(range(size))
        self._armed = True

    def before_head(self, h: Tensor, head: HeadShard) -> Mix | None:
        """The mix of rows (B, d) that are sampled from; None to leave them as they are.

        Raises:
            RuntimeError: these are not the rows that were announced, so that nobody knows whose they are.
            WrongBaseError: a steer is of another base.
        """
        if self.late:
            self._seen = h, head
            return None
        armed, self._armed = self._armed, False
        if not armed or self._mix is None:
            return None
        if h.shape[0] != self._size:
            raise RuntimeError(f"lmsteer was told of {self._size} rows to sample from, and {h.shape[0]} came.")
        self._prove(self._mix, head)
        return self._mix

    def after_head(self, logits: Tensor, slots: Sequence[int]) -> Tensor:
        """Move logits (B, V) of rows whose requests are only known now, by their slots (B,), in place.

        Raises:
            RuntimeError: the head did not see these rows, only a part of it is here, or logits are capped.
            WrongBaseError: a steer is of another base.
        """
        mix = self._mixed(slots)
        seen, self._seen = self._seen, None
        if mix is None:
            return logits
        if seen is None or seen[0].shape[0] != logits.shape[0] or not seen[1].is_whole:
            raise RuntimeError("lmsteer did not see the rows that these logits were made of: they cannot be steered.")
        h, head = seen
        if head.soft_cap is not None:
            raise RuntimeError("this model caps its logits before this runner lets them be steered.")
        self._prove(mix, head)
        steered = mix.strengths.any(1).nonzero().squeeze(1).to(logits.device)
        moved = mix.for_rows(steered)
        logits[steered] += head.scale * self._above_head(moved, h[steered], head, logits.shape[1])
        return logits

    def check_acted(self) -> None:
        """Refuse to go on if rows were announced that never came by.

        Raises:
            RuntimeError: the model makes its logits in a way of its own.
        """
        if self._armed and self._mix is not None:
            raise RuntimeError(
                "this model makes its logits without vLLM's LogitsProcessor layer: it cannot be steered."
            )

    def _mixed(self, rows: Iterable[int]) -> Mix | None:
        """Steers and strengths of some rows or slots; None where nobody is steered."""
        mix = row_by_row([self.rows.get(row, ({}, {})) for row in rows])
        return mix if mix.steers else None

    def _prove(self, mix: Mix, head: HeadShard) -> None:
        """Check each steer's base once."""
        for name, steer in mix.steers.items():
            if self._proved.get(name) is not steer:
                head.check(steer)
                self._proved[name] = steer

    def _above_head(self, mix: Mix, h: Tensor, head: HeadShard, vocabulary: int) -> Tensor:
        """``Σ_k s_k (h A_k) (E B_k)ᵀ`` (B, V), with ``E B`` made once a steer."""
        moved = mix.steer_logits(h.new_zeros(len(h), vocabulary, dtype=torch.float32))
        for (name, steer), strengths in zip(mix.steers.items(), mix.strengths.T, strict=True):
            if steer.form == "offset":
                continue
            kept = self._above.get(name)
            if kept is None or kept[0] is not steer:
                b = steer.factors["B"] if steer.form == "multiply" else steer.factors["a"][:, None]
                kept = self._above[name] = (steer, head.weight[:vocabulary].float() @ b.to(h.device))
            below = h.float() @ steer.factors["A"].to(h.device) if steer.form == "multiply" else h.new_ones(len(h), 1)
            moved += (below.float() * strengths[:, None].to(h.device)) @ kept[1].T
        return moved


DIAL = SteeringState()
"""Of this process."""
