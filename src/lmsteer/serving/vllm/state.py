"""The steering state of one worker process: the strengths of each row of vLLM's batch, and what they change.

vLLM has two model runners. The first one says before each forward pass which row is which request, so the hidden states
are steered before the head, as everywhere in lmsteer. The second one says so only when the logits are there. Then the
logits change by what the hidden states would have changed: for each steer a product of rank r with ``E B`` (V, r), as
in a LoRA on the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lmsteer.model.head import HeadShard
from lmsteer.steer.mix import Mix, Steering, row_by_row
from lmsteer.steer.steer import Steer


class SteeringState:
    """Which rows of a batch are steered, and how.

    Attributes:
        rows: the steering of each steered request, by row (first runner) or slot (second runner).
        after_head: whether rows are known only after the head, as with the second runner.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Steering] = {}
        self.after_head = False
        self._size, self._announced = 0, False
        self._mix: Mix | None = None
        self._checked: dict[str, Steer] = {}
        self._seen: tuple[Tensor, HeadShard] | None = None
        self._head_products: dict[str, tuple[Steer, Tensor]] = {}

    def announce(self, size: int | None) -> None:
        """Prepare for the next forward pass, in which ``size`` rows are sampled; None for as many as last time.

        Only the next rows that reach the head are sampled. Later ones (log-likelihoods of prompts, say) and those that
        were not announced (memory profiling) are not steered.
        """
        if size is not None:
            self._size = size
            self._mix = self._mix_of(range(size))
        self._announced = True

    def before_head(self, h: Tensor, head: HeadShard) -> Mix | None:
        """The mix for the hidden states ``h`` (B, d) before the head; None if they are not steered here.

        Raises:
            RuntimeError: the number of rows is not the announced one, so it is unknown which row is which request.
            WrongBaseError: a steer belongs to another base.
        """
        if self.after_head:
            self._seen = h, head
            return None
        announced, self._announced = self._announced, False
        if not announced or self._mix is None:
            return None
        if h.shape[0] != self._size:
            raise RuntimeError(f"{self._size} rows were announced to lmsteer, but {h.shape[0]} reached the head.")
        self._check_base(self._mix, head)
        return self._mix

    def steer_logits(self, logits: Tensor, slots: Sequence[int]) -> Tensor:
        """Steer logits (B, V) in place, for rows whose requests are known only now, by their slots (B,).

        Raises:
            RuntimeError: the head was not called for these rows, only a part of it is in this process, or the model
                caps its logits.
            WrongBaseError: a steer belongs to another base.
        """
        mix = self._mix_of(slots)
        seen, self._seen = self._seen, None
        if mix is None:
            return logits
        if seen is None or seen[0].shape[0] != logits.shape[0] or not seen[1].is_whole:
            raise RuntimeError("lmsteer did not see the hidden states of these logits: they cannot be steered.")
        h, head = seen
        if head.soft_cap is not None:
            raise RuntimeError("this model caps its logits before this model runner lets them be steered.")
        self._check_base(mix, head)
        steered = mix.strengths.any(1).nonzero().squeeze(1).to(logits.device)
        selected = mix.for_rows(steered)
        logits[steered] += head.scale * self._logit_change(selected, h[steered], head, logits.shape[1])
        return logits

    def check_acted(self) -> None:
        """Refuse to continue if the announced rows never reached the head.

        Raises:
            RuntimeError: the model computes its logits in a way of its own.
        """
        if self._announced and self._mix is not None:
            raise RuntimeError(
                "this model computes its logits without vLLM's LogitsProcessor layer: it cannot be steered."
            )

    def _mix_of(self, rows: Iterable[int]) -> Mix | None:
        """The mix of some rows or slots; None if none of them is steered."""
        mix = row_by_row([self.rows.get(row, ({}, {})) for row in rows])
        return mix if mix.steers else None

    def _check_base(self, mix: Mix, head: HeadShard) -> None:
        """Check the base of each steer once."""
        for name, steer in mix.steers.items():
            if self._checked.get(name) is not steer:
                head.check(steer)
                self._checked[name] = steer

    def _logit_change(self, mix: Mix, h: Tensor, head: HeadShard, vocabulary: int) -> Tensor:
        """``Σ_k s_k (h A_k) (E B_k)ᵀ`` (B, V); the products ``E B_k`` (V, r) are computed once."""
        change = mix.steer_logits(h.new_zeros(len(h), vocabulary, dtype=torch.float32))
        for (name, steer), strengths in zip(mix.steers.items(), mix.strengths.T, strict=True):
            if steer.form == "offset":
                continue
            known = self._head_products.get(name)
            if known is None or known[0] is not steer:
                b = steer.factors["B"] if steer.form == "multiply" else steer.factors["a"][:, None]
                known = self._head_products[name] = (steer, head.weight[:vocabulary].float() @ b.to(h.device))
            reading = h.float() @ steer.factors["A"].to(h.device) if steer.form == "multiply" else h.new_ones(len(h), 1)
            change += (reading.float() * strengths[:, None].to(h.device)) @ known[1].T
        return change


STATE = SteeringState()
"""The state of this process."""
