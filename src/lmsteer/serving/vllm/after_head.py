"""Steering under vLLM's second model runner, which says which row is which request only with the logits.

Then logits are steered in place of hidden states. For each row, with z the raw logits and ``post`` the model's own
scale and soft cap, the logits change by what steered hidden states would have changed::

    post(z + z₁) - post(z)        z₁ = Σ_k s_k (h A_k) (E B_k)ᵀ

The factors ``A`` and the products ``E B`` (V, R) stay on the device, and so does a table of the strengths of every
request, with their windows and limits, which changes only when a request with a steer comes. A step picks its rows
from that table there, so its cost is the same for one setting of strengths as for many. Limits cost a look at the
vocabulary for each row of a step in which any request has them.

Under speculative decoding a request has a row for each drafted token. Drafts come without steers, and vLLM accepts or
rejects each by the steered distribution, which is therefore the distribution of what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmsteer.generation.limits import RowLimits
from lmsteer.model.head import HeadShard, piece_numbers
from lmsteer.serving.vllm.asked import NOTHING, Asked, AskedTable
from lmsteer.serving.vllm.checked_bases import CheckedBases
from lmsteer.serving.vllm.limits import within_limits
from lmsteer.steer.mix import Mix

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext


@dataclass(frozen=True)
class HeadPass:
    """What the head was given, and what it made of it.

    Attributes:
        h: the hidden states (B, d).
        head: the rows of E that this process holds.
        raw: the raw logits (B, V), before scale and soft cap; None if the model has no soft cap.
        logits: the logits (B, V) that the sampler is given. vLLM may put minus infinity for words in them.
        post: the model's own scale and soft cap; it may work in place.
        gather: joins the columns that each process holds: (R, V / processes) to (R, V).
    """

    h: Tensor
    head: HeadShard
    raw: Tensor | None
    logits: Tensor
    post: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]


class AfterHead:
    """The strengths of all requests by their slots, and the last pass of the head.

    Args:
        slots: the number of slots, each of which holds a request.
        device: the device of the logits.
        prompts: gives the lengths (S,) of the prompts of all slots, on the device; they are looked at if a strength has
            a window.
        raw: whether log-likelihoods are those of the logits before vLLM processes them. Then these are steered, too.
        in_parts: whether vLLM may hand the rows of a pass over in several parts, as it does with many drafts.
    """

    def __init__(
        self, slots: int, device: torch.device, prompts: Callable[[], Tensor], *, raw: bool, in_parts: bool = False
    ) -> None:
        self._slots, self._device, self._prompts = slots, device, prompts
        self._raw, self._in_parts = raw, in_parts
        self._rows: dict[int, Asked] = {}
        self._table: AskedTable | None = None
        self._limits: RowLimits | None = None
        self._pass: HeadPass | None = None
        self._taken, self._same, self._changed = 0, False, False
        self._bases = CheckedBases()

    def put(self, slot: int, asked: Asked | None) -> bool:
        """A request takes a slot, in place of the one that had it; None if it is not steered.

        Returns:
            Whether its rows have to come to ``steer``. In parts all have, since a part of which none has is left out,
            and then it would be unknown which rows are the next ones.
        """
        before = self._rows.pop(slot, None)
        if asked is not None:
            self._rows[slot] = asked
        self._changed |= before is not None or asked is not None
        return asked is not None or self._in_parts

    def prepare(self) -> None:
        """Bring the table of strengths up to date; vLLM calls this once before each forward pass."""
        if self._changed:
            rows = [self._rows.get(slot, NOTHING) for slot in range(self._slots)]
            self._table = AskedTable.of(rows, self._table and self._table.mix, self._device)
            limits = [row.limits for row in rows]
            is_limited = any(each.on for each in limits)
            self._limits = RowLimits.of(limits, [()] * len(rows), 0, self._device) if is_limited else None
            self._changed = False

    def remember(self, made: HeadPass) -> None:
        """The head was called: if the sampler is next, it is for these rows. Kept only for steered requests."""
        self._pass, self._taken = made if self._rows else None, 0

    def steer(self, logits: Tensor, context: LogitsContext) -> Tensor:
        """Steer the next logits (B, V) of the last pass in place.

        Args:
            logits: float32; other processors may have changed them.
            context: says which row is which request.

        Raises:
            RuntimeError: these are not the next rows of the last pass of the head, or the model has changed them.
            WrongBaseError: a steer belongs to another base.
        """
        part = slice(self._taken, self._taken + len(logits))
        made, self._taken = self._pass, part.stop
        if made is not None and part.stop >= len(made.h):
            self._pass = None  # and with it the memory of a pass
        own = context.idx_mapping_np.tolist()
        if not any(slot in self._rows for slot in own):
            return logits
        if made is None or part.stop > len(made.h):
            raise RuntimeError("lmsteer did not see the hidden states of these logits: they cannot be steered.")
        self._check_same(logits, made.logits[part])
        slots = context.expanded_idx_mapping
        mix = self._mix_of(slots, context.pos)
        self._bases.check(mix, made.head)
        # A request that has ended keeps its slot's limits until another one takes it.
        is_limited = any(self._rows[slot].limits.on for slot in own if slot in self._rows)
        change = _change(mix, made, part, self._limits.at(slots) if self._limits and is_limited else None)
        if self._raw:
            made.logits[part] += change.to(made.logits.dtype)
        logits += change
        return logits

    def _check_same(self, logits: Tensor, made: Tensor) -> None:
        """Refuse, once, logits that the model has changed after vLLM's own layer, which steers would not fit.

        Penalties and biases change some words only. Where most words are forbidden, a later step is looked at.
        """
        if self._same:
            return
        allowed = logits.isfinite()
        if bool(allowed.float().mean() > 0.5):
            if not bool((logits == made.float())[allowed].float().mean() > 0.5):
                raise RuntimeError(
                    "this model changes its logits after vLLM's LogitsProcessor layer: it cannot be steered by this "
                    "model runner. Start vLLM with VLLM_USE_V2_MODEL_RUNNER=0."
                )
            self._same = True

    def _mix_of(self, slots: Tensor, places: Tensor) -> Mix:
        """The mix of some rows, by their slots (B,) and their places in their sequences (B,), on the device."""
        self.prepare()
        assert self._table is not None
        token = places + 1 - self._prompts()[slots] if self._table.windows is not None else places
        return self._table.mix_at(token, slots)


def _change(mix: Mix, made: HeadPass, part: slice, limits: RowLimits | None) -> Tensor:
    """What the steers change of the logits of some rows (B, V), float32: an exact 0 of rows without steers."""
    shift = mix.logit_shift(made.h[part], made.head.weight, made.gather)
    if made.raw is None:
        change = made.post(shift)  # a scale alone
    else:
        raw = made.raw[part].float()
        change = made.post(raw + shift) - made.post(raw.clone())
    if limits is None:
        return change
    z0, z1, post = (made.logits, change, _as_it_is) if made.raw is None else (made.raw, shift, _copied(made.post))
    some = max(1, piece_numbers(change.device) // change.shape[1])
    for first in range(0, len(change), some):
        rows = torch.arange(first, min(first + some, len(change)), device=change.device)
        own, plain = limits.at(rows), z0[part][rows].float()
        unsteered = post(plain)
        # Words that are forbidden stay so; the difference of two infinities is no number.
        found = torch.where(unsteered.isfinite(), within_limits(plain, z1[rows], own, post) - unsteered, 0.0)
        change[rows] = torch.where(own.is_on[:, None], found, change[rows])
    return change


def _copied(post: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that may work in place, on a copy."""
    return lambda z: post(z.clone())


def _as_it_is(z: Tensor) -> Tensor:
    """Logits without a soft cap, whose scale is in them."""
    return z
