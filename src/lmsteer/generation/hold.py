"""Holds: a closed loop that keeps the reading of a row at a level, a strength for each token.

The reading of a continuation is ``σ(slope · E + offset)``, the steer's Platt scaling of the evidence ``E`` of its
tokens (``generation.evidence``), so that a level stands for an evidence ``E*``. Before each token the logits are known
in two parts, and with them what a unit of strength brings: at strength ``s`` the token has, in the mean, about ``s g``
nats more evidence than at 0, where ``g`` is half of the Jeffreys divergence between the strengths +1 and -1. The next
strength is what is missing, to be made up within ``_TOKENS`` tokens like those so far::

    s = clamp((E* - E) / (_TOKENS · mean g), lowest, highest)

Everything is on the device, so that a step copies nothing to the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.evidence import vocabulary_evidence
from lmsteer.generation.row import Row
from lmsteer.model.head import Head
from lmsteer.steer.mix import Mix

# What is missing is to be made up within about this many tokens.
_TOKENS = 8


class HeldStep(NamedTuple):
    """What the tokens that a step may draw would add to the sums.

    Attributes:
        evidence: of each held steer, the evidence (L, V) of every token.
        gain: what a unit of strength brings (L, H).
        acts: whether the steer acts on the token (L, H).
    """

    evidence: list[Tensor]
    gain: Tensor
    acts: Tensor


class RowHolds(NamedTuple):
    """The holds of some rows (L), each of which may hold several of H steers.

    Attributes:
        columns: the columns of the held steers in the mix of the rows.
        rows: the places of the rows in their batch.
        places: of each row, the steers that it holds: the place of each among ``columns``, by name.
        wanted: the evidence that a text at the level has (L, H); nan where a row does not hold the steer.
        low: the lowest strength (L, H).
        high: the highest strength (L, H).
        sums: of the tokens so far on which the steer acted (L, H, 3): evidence, gain, and number.
    """

    columns: list[int]
    rows: list[int]
    places: list[dict[str, int]]
    wanted: Tensor
    low: Tensor
    high: Tensor
    sums: Tensor

    @classmethod
    def of(cls, rows: Mapping[int, Row], columns: Sequence[Mapping[str, int]], device: torch.device) -> RowHolds | None:
        """The holds of some rows; None if they hold nothing.

        Args:
            rows: the rows, by their places in the batch.
            columns: of each row of the batch, the column of each of its steers in the mix.
            device: the device of the logits.
        """
        held = sorted({columns[row][name] for row, own in rows.items() for name in own.held})
        if not held:
            return None
        numbers = torch.tensor([[[torch.nan, 0.0, 0.0]] * len(held)] * len(rows))
        places = [{name: held.index(columns[row][name]) for name in own.held} for row, own in rows.items()]
        for number, own in enumerate(rows.values()):
            for name, place in places[number].items():
                card, hold = own.steers[name].card, own.held[name]
                numbers[number, place] = torch.tensor([hold.evidence(card), *hold.bounds(card)])
        wanted, low, high = numbers.to(device).permute(2, 0, 1).contiguous()
        none = torch.zeros(len(rows), len(held), 3, device=device)
        empty = cls(held, [*rows], places, wanted, low, high, none)
        return empty.having({row: own.sums for row, own in rows.items()})

    def strengths(self, head: Head, z0: Tensor, h: Tensor, mix: Mix) -> tuple[Tensor, HeldStep]:
        """The strengths (L, K) of the next token, and what it may add.

        Args:
            head: the model's head.
            z0: raw logits (L, V) of the unsteered model.
            h: hidden states (L, d) in front of any steer.
            mix: the steers at the strengths of these rows, of which held ones are the shares of their windows.
        """
        acting, is_held, names = [*mix.strengths.T], ~self.wanted.isnan(), [*mix.steers]
        evidence, gains, acts = list[Tensor](), list[Tensor](), list[Tensor]()
        for place, column in enumerate(self.columns):
            whole, own = acting[column], is_held[:, place]
            z1 = mix.unit_shift(names[column], h, head.weight).to(z0.device)
            of_tokens, gain = vocabulary_evidence(head, z0, z1)
            evidence.append(of_tokens)
            gains.append(gain)
            acts.append(own & (whole != 0))
            mean = (self.sums[:, place, 1] + gain) / (self.sums[:, place, 2] + 1)
            missing = (self.wanted[:, place] - self.sums[:, place, 0]) / (_TOKENS * mean)
            strength = missing.nan_to_num().clamp(self.low[:, place], self.high[:, place])
            acting[column] = torch.where(own, strength * whole, whole)
        return torch.stack(acting, 1), HeldStep(evidence, torch.stack(gains, 1), torch.stack(acts, 1))

    def after(self, step: HeldStep, tokens: Tensor) -> RowHolds:
        """The holds after a token of each row (L,)."""
        drawn = tokens.clamp(min=0)[:, None]
        evidence = torch.cat([of_tokens.gather(1, drawn) for of_tokens in step.evidence], 1)
        new = torch.stack([evidence, step.gain, torch.ones_like(step.gain)], 2)
        return self._replace(sums=torch.where(step.acts[..., None], self.sums + new, self.sums))

    def by_row(self) -> dict[int, dict[str, Tensor]]:
        """The sums (3,) of the steers that each row holds, by the row's place in the batch and the steer's name."""
        own = zip(self.rows, self.places, self.sums, strict=True)
        return {row: {name: of_row[place] for name, place in places.items()} for row, places, of_row in own}

    def having(self, sums: Mapping[int, Mapping[str, Tensor]]) -> RowHolds:
        """The same with the sums of ``by_row``; 0 where there are none."""
        table = [[*of_row] for of_row in torch.zeros_like(self.sums)]
        for number, (row, places) in enumerate(zip(self.rows, self.places, strict=True)):
            for name, place in places.items():
                table[number][place] = sums[row].get(name, table[number][place]).to(self.sums)
        return self._replace(sums=torch.stack([torch.stack(of_row) for of_row in table]))
