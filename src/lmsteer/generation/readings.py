"""Readings: what a decoding step knows of each token that it draws, without a look at any value on the host.

A step has the raw logits ``z₀`` of the unsteered model and the steered logits within the row's limits. So it knows,
without another pass of the model, the log-likelihoods of the token under both, the divergence of the two distributions,
and the evidence of the token for each steer (``evidence``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.evidence import token_evidence
from lmsteer.generation.limits import Limited
from lmsteer.generation.row import Row
from lmsteer.model.head import Head
from lmsteer.steer.mix import Mix

# Columns of a table of readings before those of the steers' evidence.
_FIRST = 4


@dataclass(frozen=True)
class TokenReading:
    """What is known of a token that was drawn.

    Attributes:
        token: its id.
        text: what it adds to the text; empty for the end of text, and for a part of a character but its last one. What
            may be the beginning of a stop string comes with a later token.
        log_p: its log-likelihood under the steered model, in nats: that of the distribution within the limits ``fresh``
            and ``kl``, before ``plausible``, temperature, top-k and top-p rule tokens out.
        unsteered_log_p: its log-likelihood under the unsteered model, in nats.
        kl: the divergence KL(steered || unsteered) of these two distributions, in nats.
        scale: what the limit ``kl`` scaled the strengths by; 1 without it.
        evidence: the evidence of the token for each steer of its row, in nats: its log-likelihood with this steer alone
            at strength 1, minus that at -1.
        total_evidence: the evidence of the continuation up to this token.
    """

    token: int
    text: str
    log_p: float
    unsteered_log_p: float
    kl: float
    scale: float
    evidence: Mapping[str, float]
    total_evidence: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The reading as a JSON object."""
        return {
            "id": self.token,
            "text": self.text,
            "logprob": self.log_p,
            "unsteered_logprob": self.unsteered_log_p,
            "kl": self.kl,
            "scale": self.scale,
            "evidence": dict(self.evidence),
            "total_evidence": dict(self.total_evidence),
        }


class ReadingLog:
    """Makes the readings of one continuation's tokens, in their order.

    Args:
        steers: the names of the row's steers, in their order.
    """

    def __init__(self, steers: Iterable[str]) -> None:
        self._totals = dict.fromkeys(steers, 0.0)

    def add(self, token: int, text: str, values: Sequence[float]) -> TokenReading:
        """The reading of the next token.

        Args:
            token: its id.
            text: what it adds to the text.
            values: its line of the table of ``RowReadings.table``.
        """
        evidence = dict(zip(self._totals, values[_FIRST:], strict=False))  # lines are as long as that of most steers
        self._totals = {name: total + evidence[name] for name, total in self._totals.items()}
        log_p, unsteered, kl, scale = values[:_FIRST]
        return TokenReading(token, text, log_p, unsteered, kl, scale, evidence, self._totals)


class _Reader(NamedTuple):
    """A steer that reads.

    Attributes:
        name: its name in the mix.
        lines: the lines (N,) of the rows that ask for it.
        columns: the columns (N,) that it fills.
    """

    name: str
    lines: Tensor
    columns: Tensor


class RowReadings(NamedTuple):
    """Which of some rows are read, and by which steers.

    Attributes:
        places: the places (R,) of the rows that are read, on the model's device.
        readers: the steers.
        width: number of columns of the table.
    """

    places: Tensor
    readers: list[_Reader]
    width: int

    @classmethod
    def of(cls, rows: Sequence[Row], mix: Mix, device: torch.device) -> RowReadings:
        """Which of some rows are read.

        Args:
            rows: the rows.
            mix: their steers.
            device: the model's device.
        """
        places = [place for place, row in enumerate(rows) if row.readings]
        wanted = [
            (line, column, steer)
            for line, place in enumerate(places)
            for column, steer in enumerate(rows[place].steers.values(), _FIRST)
        ]
        readers = []
        for name, steer in mix.steers.items():
            if own := [(line, column) for line, column, each in wanted if each is steer]:
                readers.append(_Reader(name, *torch.tensor(own, device=device).T))
        width = max((_FIRST + len(rows[place].steers) for place in places), default=0)
        return cls(torch.tensor(places, dtype=torch.int64, device=device), readers, width)

    def table(self, head: Head, mix: Mix, hidden: Tensor, z0: Tensor, limited: Limited, tokens: Tensor) -> Tensor:
        """The readings (R, C) of the tokens of a step, on the model's device.

        Args:
            head: the model's head.
            mix: the steers of all rows.
            hidden: the hidden states (L, d) of all rows in front of any steer, on the device of the head.
            z0: their raw logits (L, V) under the unsteered model, on the model's device.
            limited: their steered logits within the limits.
            tokens: the tokens (L,) that were drawn.
        """
        tokens, raw = tokens[self.places].clamp(min=0), z0[self.places].float()
        own, h = tokens[:, None], hidden[self.places.to(hidden.device)]
        log_p = torch.log_softmax(limited.steered[self.places].float(), -1)
        log_p0 = torch.log_softmax(head.post(raw), -1)
        # Where a logit is minus infinity, the difference of both is no number.
        kl = torch.linalg.vecdot(log_p.exp(), (log_p - log_p0).nan_to_num_(0.0))
        table = raw.new_zeros(len(raw), self.width)
        columns = [log_p.gather(1, own)[:, 0], log_p0.gather(1, own)[:, 0], kl, limited.share[self.places]]
        table[:, :_FIRST] = torch.stack(columns, 1)
        for name, lines, places in self.readers:
            z1 = mix.unit_shift(name, h[lines.to(h.device)], head.weight).to(raw.device)
            table[lines, places] = token_evidence(head, raw[lines], z1, tokens[lines])
        return table
