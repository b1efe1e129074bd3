"""Mix: several named steers, a strength each, for a whole batch or row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.steer import Steer
from lmsteer.steer.transform import broadcast_rows, multiply, shift

Strength = float | Sequence[float] | Tensor
# Steers by name, and a strength of each: what one row asks for.
Steering = tuple[Mapping[str, Steer], Mapping[str, float]]


class Mix:
    """Steers with strengths: ``W = Σ_k s_k W_k``, and likewise for the other forms.

    Args:
        steers: steers by name.
        strengths: for each name one number, or one for each row of the batch (B,).

    Raises:
        SteerError: a name in one mapping only, a strength that is not a finite number, steers of different
            models, or strengths for different numbers of rows.
    """

    def __init__(self, steers: Mapping[str, Steer], strengths: Mapping[str, Strength]) -> None:
        if set(steers) != set(strengths):
            unknown = sorted(set(steers) ^ set(strengths))
            raise SteerError(f"each steer needs one strength; unmatched: {', '.join(unknown)}.")
        self.steers = dict(steers)
        self.strengths = _strength_table([strengths[name] for name in steers], list(steers))
        self._check_same_base()
        self._on_device = lru_cache(maxsize=4)(self._factors)

    def __repr__(self) -> str:
        return f"Mix({', '.join(self.steers)}; strengths {self.strengths.tolist()})"

    def with_strengths(self, **strengths: Strength) -> Mix:
        """The same steers at other strengths; those not named keep theirs.

        Raises:
            SteerError: as for a new mix.
        """
        if unknown := sorted(set(strengths) - set(self.steers)):
            raise SteerError(f"each steer needs one strength; unmatched: {', '.join(unknown)}.")
        columns = {**dict(zip(self.steers, self.strengths.unbind(1), strict=True)), **strengths}
        other = copy(self)  # which shares the factors on their device
        other.strengths = _strength_table([columns[name] for name in self.steers], list(self.steers))
        return other

    def for_rows(self, rows: Tensor) -> Mix:
        """The same for some rows of the batch (N,)."""
        some = copy(self)
        some.strengths = self.strengths if len(self.strengths) == 1 else self.strengths[rows.cpu()]
        return some

    def steer_hidden_states(self, h: Tensor, onto: Tensor | None = None) -> Tensor:
        """h' of ``h`` (B, .., d): what the head is given in its place.

        Args:
            h: the model's own hidden states.
            onto: what the effect of this mix is added to, where other mixes have acted before it; ``h`` if None.
        """
        steered = h if onto is None else onto
        a, b, vectors, _ = self._on_device(h.device)
        if a is not None and b is not None:
            steered = multiply(h, a, b, self._spread("multiply", h), steered)
        return steered if vectors is None else shift(steered, vectors, self._spread("add", h))

    def steer_logits(self, logits: Tensor) -> Tensor:
        """z' of raw logits (B, .., V): adds the steers of form offset."""
        offsets = self._on_device(logits.device)[3]
        return logits if offsets is None else shift(logits, offsets, self._spread("offset", logits))

    def check_shape(self, hidden_size: int, vocabulary: int) -> None:
        """Refuse a model of another shape.

        Raises:
            SteerError: a steer has another hidden size or vocabulary.
        """
        for name, steer in self.steers.items():
            if (steer.hidden_size, steer.vocabulary) != (hidden_size, vocabulary):
                raise SteerError(
                    f"steer {name!r} is for hidden size {steer.hidden_size} and vocabulary {steer.vocabulary}, "
                    f"but the model has {hidden_size} and {vocabulary}."
                )

    def matrix(self) -> Tensor:
        """``Σ_k s_k W_k`` (d, d) of the multiply steers, for strengths that are one for all rows."""
        if self.strengths.shape[0] != 1:
            raise SteerError("a mix with strengths row by row has no single matrix.")
        pairs = zip(self.steers.values(), self.strengths[0], strict=True)
        return torch.stack([s * steer.matrix() for steer, s in pairs if steer.form == "multiply"]).sum(0)

    def _spread(self, form: str, x: Tensor) -> Tensor:
        """Strengths of one form's steers, shaped to broadcast over ``x``: (B, 1.., R or K)."""
        columns = [
            column.expand(steer.rank if form == "multiply" else 1, -1)
            for steer, column in zip(self.steers.values(), self.strengths.T, strict=True)
            if steer.form == form
        ]
        table = broadcast_rows(torch.cat(columns).T.to(x.device), x.shape[0])
        return table.reshape(table.shape[0], *[1] * (x.dim() - 2), -1)

    def _factors(self, device: torch.device) -> tuple[Tensor | None, ...]:
        """A, B (d, R) side by side, vectors (K, d) and offsets (K, V), float32 on ``device``; None if absent."""

        def gather(form: str, name: str, dim: int) -> Tensor | None:
            found = [steer.factors[name] for steer in self.steers.values() if steer.form == form]
            joined = torch.cat([f if f.dim() == 2 else f[None] for f in found], dim) if found else None
            return None if joined is None else joined.to(device, torch.float32)

        return (
            gather("multiply", "A", 1),
            gather("multiply", "B", 1),
            gather("add", "a", 0),
            gather("offset", "o", 0),
        )

    def _check_same_base(self) -> None:
        bases = {steer.card.base_fingerprint: name for name, steer in self.steers.items()}
        if len(bases) > 1:
            raise SteerError(f"steers of different base models cannot be mixed: {', '.join(bases.values())}.")


def row_by_row(rows: Sequence[Steering]) -> Mix:
    """The mix of a batch whose rows ask for steers of their own; one that a row did not ask for adds an exact 0 there.

    A steer that was fitted anew between two requests is another one, under a name with a stroke.
    """
    steers: dict[str, Steer] = {}
    columns: dict[str, list[float]] = {}
    for place, (own, strengths) in enumerate(rows):
        for name, steer in own.items():
            key = name
            while steers.setdefault(key, steer) is not steer:
                key += "'"
            columns.setdefault(key, [0.0] * len(rows))[place] = strengths[name]
    return Mix(steers, columns)


def _strength_table(strengths: Sequence[Strength], names: Sequence[str]) -> Tensor:
    """Strengths as a float32 table (B or 1, K)."""
    columns = [torch.as_tensor(s, dtype=torch.float32).reshape(-1) for s in strengths]
    for name, column in zip(names, columns, strict=True):
        if not len(column) or not all(map(math.isfinite, column.tolist())):
            raise SteerError(f"the strength of steer {name!r} must be a finite number, not {column.tolist()}.")
    rows = max((len(c) for c in columns), default=1)
    if any(len(c) not in (1, rows) for c in columns):
        raise SteerError(f"strengths are given for {sorted({len(c) for c in columns})} rows: give one, or one a row.")
    return torch.stack([c.expand(rows) for c in columns], 1) if columns else torch.zeros(1, 0)
