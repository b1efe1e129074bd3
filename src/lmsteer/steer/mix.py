"""Mix: several named steers, each with a strength, for a whole batch or row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.steer import Form, LowRank, Steer
from lmsteer.steer.transform import broadcast_rows, multiply, read, shift

# Steers that stay on the device although no row asks for them.
_IDLE = 4
# Output embeddings that are multiplied at once, in float32.
_EMBEDDINGS = 8192
Strength = float | Sequence[float] | Tensor
# Steers by name, and the strength of each: what one row of a batch asks for.
Steering = tuple[Mapping[str, Steer], Mapping[str, float]]


class _JoinedFactors(NamedTuple):
    """The factors of all steers side by side, float32, on one device; None for a form that no steer has."""

    a: Tensor | None  # (d, R)
    b: Tensor | None  # (d, R)
    vectors: Tensor | None  # (K, d), of form add
    offsets: Tensor | None  # (K, V)


class Mix:
    """Steers with strengths: ``W = Σ_k s_k W_k``, and likewise for the other forms.

    Args:
        steers: the steers, by name.
        strengths: for each name one number, or one for each row of the batch (B,).

    Attributes:
        steers: the steers, by name.
        strengths: float32 (B or 1, K), one column a steer.

    Raises:
        SteerError: a name is in one mapping only, a strength is not a finite number, steers belong to different models,
            or strengths are given for different numbers of rows.
    """

    def __init__(self, steers: Mapping[str, Steer], strengths: Mapping[str, Strength]) -> None:
        if set(steers) != set(strengths):
            unmatched = sorted(set(steers) ^ set(strengths))
            raise SteerError(f"each steer needs one strength; unmatched: {', '.join(unmatched)}.")
        self.steers = dict(steers)
        self.strengths = _strength_table([strengths[name] for name in steers], list(steers))
        self._check_same_base()
        # Shared with copies. No method is kept here: a mix that refers to itself would keep its factors on the device.
        self._by_device: dict[torch.device, _JoinedFactors] = {}
        # Their products with output embeddings, by where those are.
        self._products: dict[tuple[torch.device, int], Tensor] = {}
        # Their maps at sites inside the model, side by side, by site and device.
        self._inner: dict[tuple[str, torch.device], LowRank] = {}
        # The strengths of each form's steers on each device, (B or 1, R or K), and of each site's; of this mix alone.
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    def __repr__(self) -> str:
        return f"Mix({', '.join(self.steers)}; strengths {self.strengths.tolist()})"

    @property
    def sites(self) -> list[str]:
        """The sites inside the model where a steer acts; none if all act on the head alone."""
        return [*dict.fromkeys(site for steer in self.steers.values() for site in steer.sites)]

    def check_head_alone(self, what: str) -> None:
        """Refuse steers that act inside the model, too; as ``Steer.check_head_alone``."""
        for steer in self.steers.values():
            steer.check_head_alone(what)

    def for_rows(self, rows: Tensor) -> Mix:
        """The mix for some rows of the batch, by their indices (N,)."""
        if len(self.strengths) == 1:
            return self
        with torch.inference_mode(False):
            return self.at(self.strengths[rows.cpu()])

    def with_strengths(self, strengths: Mapping[str, Strength]) -> Mix:
        """The same steers with other strengths; their factors stay where they are.

        Raises:
            SteerError: a strength is missing or not a finite number, or they are given for different numbers of rows.
        """
        return self.at(_strength_table([strengths[name] for name in self.steers], list(self.steers)))

    def without_rows(self, rows: Tensor) -> Mix:
        """The mix with strength 0 for some rows of the batch, by their indices (N,) on the CPU."""
        if not self.steers:
            return self
        with torch.inference_mode(False):
            return self.at(self.strengths.index_fill(0, rows, 0.0))

    def at(self, strengths: Tensor) -> Mix:
        """The same steers at a table of strengths (B or 1, K), on any device, which is not checked."""
        other = copy(self)
        other.strengths, other._tables = strengths, {}
        return other

    def steer_hidden_states(self, h: Tensor, onto: Tensor | None = None) -> Tensor:
        """h' of ``h`` (B, .., d): what the head is given in its place.

        Args:
            h: the model's own hidden states.
            onto: what the effect of this mix is added to, where other mixes have acted before it; ``h`` if None.
        """
        steered = h if onto is None else onto
        factors = self._factors(h.device)
        if factors.a is not None and factors.b is not None:
            steered = multiply(h, factors.a, factors.b, self._strengths_like("multiply", h), steered)
        return steered if factors.vectors is None else shift(steered, factors.vectors, self._strengths_like("add", h))

    def steer_site(self, site: str, x: Tensor, onto: Tensor) -> Tensor:
        """What a site puts out in place of ``onto`` (B, .., m), given what the maps there read (B, .., n)."""
        key = site, x.device
        having = {name: steer.inner[site] for name, steer in self.steers.items() if site in steer.inner}
        if not having:
            return onto
        if key not in self._inner:
            with torch.inference_mode(False):
                a, b = (torch.cat(parts, 1).to(x.device, torch.float32) for parts in zip(*having.values(), strict=True))
                self._inner[key] = LowRank(a, b)
        if key not in self._tables:
            ranks = {name: factors.a.shape[1] for name, factors in having.items()}
            self._tables[key] = self._repeated(ranks, x.device)
        return multiply(x, *self._inner[key], _like(self._tables[key], x), onto)

    def steer_logits(self, logits: Tensor) -> Tensor:
        """z' of raw logits (B, .., V): adds the steers of form offset."""
        offsets = self._factors(logits.device).offsets
        return logits if offsets is None else shift(logits, offsets, self._strengths_like("offset", logits))

    def logit_shift(self, h: Tensor, weight: Tensor, gather: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """What the steers add to the raw logits (B, V) of ``h`` (B, d), in float32.

        It costs a product of their ranks with the vocabulary: the products with the output embeddings are kept.

        Args:
            h: the model's own hidden states.
            weight: E (V, d), the output embeddings, on the device of ``h``; or the rows of it that a process holds.
            gather: then joins the columns of all processes; None if one holds them all.
        """
        factors, parts = self._factors(h.device), list[Tensor]()
        if factors.a is not None:
            parts.append(read(h, factors.a, self._strengths_like("multiply", h)))
        if factors.vectors is not None:
            parts.append(self._strengths_like("add", h).expand(len(h), -1))
        if parts:
            return self.steer_logits(torch.cat(parts, 1) @ self._head_products(factors, weight, gather))
        vocabulary = max((steer.vocabulary for steer in self.steers.values()), default=len(weight))
        return self.steer_logits(torch.zeros(len(h), vocabulary, device=h.device))

    def unit_shift(self, name: str, h: Tensor, weight: Tensor) -> Tensor:
        """What one of the steers alone adds to the raw logits (B, V) at strength 1; otherwise as ``logit_shift``."""
        factors, form = self._factors(h.device), self.steers[name].form
        same = [each for each, steer in self.steers.items() if steer.form == form]
        place = same.index(name)
        if factors.offsets is not None and form == "offset":
            return factors.offsets[place].expand(len(h), -1)
        products, ranks = self._head_products(factors, weight), 0 if factors.a is None else factors.a.shape[1]
        if factors.a is None or form == "add":
            return products[ranks + place].expand(len(h), -1)
        first = sum(self.steers[each].rank for each in same[:place])
        columns = slice(first, first + self.steers[name].rank)
        return (h.float() @ factors.a[:, columns]) @ products[columns]

    def column(self, name: str, steer: Steer) -> int:
        """The column of a steer that a row asks for by name, in the mix of ``row_by_row``."""
        while self.steers.get(name) is not steer:  # where a steer was fitted anew, the old one's name may be gone
            name += "'"
        return [*self.steers].index(name)

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

    def factors(self) -> tuple[Tensor, Tensor]:
        """A, B (d, R) of ``Σ_k s_k W_k = A Bᵀ``, the sum of the multiply steers.

        Raises:
            SteerError: strengths differ from row to row, or a steer acts inside the model, too.
        """
        if self.strengths.shape[0] != 1:
            raise SteerError("a mix with strengths row by row has no single matrix.")
        pairs = zip(self.steers.values(), self.strengths[0], strict=True)
        found = [(*steer.matrix_factors(), s) for steer, s in pairs if steer.form == "multiply"]
        return torch.cat([s * a for a, _, s in found], 1), torch.cat([b for _, b, _ in found], 1)

    def _strengths_like(self, form: Form, x: Tensor) -> Tensor:
        """The strengths of one form's steers, in a shape that broadcasts over ``x``: (B, 1.., R or K)."""
        if (form, x.device) not in self._tables:
            same = {name: steer for name, steer in self.steers.items() if steer.form == form}
            ranks = {name: steer.rank if form == "multiply" else 1 for name, steer in same.items()}
            self._tables[form, x.device] = self._repeated(ranks, x.device)
        return _like(self._tables[form, x.device], x)

    def _repeated(self, ranks: Mapping[str, int], device: torch.device) -> Tensor:
        """The strengths (B or 1, R) of some steers on a device, each repeated over its ranks."""
        columns = dict(zip(self.steers, self.strengths.T, strict=True))
        with torch.inference_mode(False):
            parts = [columns[name].expand(rank, -1) for name, rank in ranks.items()]
            return torch.cat(parts).T.to(device).contiguous()

    def _factors(self, device: torch.device) -> _JoinedFactors:
        """The factors on a device, put together when they are first needed there."""
        if device not in self._by_device:
            # Not as inference tensors, through which a later forward pass could not be differentiated.
            with torch.inference_mode(False):
                self._by_device[device] = _JoinedFactors(
                    self._joined("multiply", "A", 1, device),
                    self._joined("multiply", "B", 1, device),
                    self._joined("add", "a", 0, device),
                    self._joined("offset", "o", 0, device),
                )
        return self._by_device[device]

    def _head_products(
        self, factors: _JoinedFactors, weight: Tensor, gather: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """``E B`` and ``E a`` of all steers, (R + K, V)."""
        key = weight.device, weight.data_ptr()
        if key not in self._products:
            columns = [factors.b, None if factors.vectors is None else factors.vectors.T]
            with torch.inference_mode(False):
                table = torch.cat([each for each in columns if each is not None], 1)
                parts = [part.float() @ table for part in weight.detach().split(_EMBEDDINGS)]
                products = torch.cat(parts).T.contiguous()
                self._products[key] = gather(products) if gather else products
        return self._products[key]

    def _joined(self, form: Form, name: str, dim: int, device: torch.device) -> Tensor | None:
        factors = [steer.factors[name] for steer in self.steers.values() if steer.form == form]
        if not factors:
            return None
        return torch.cat([f if f.dim() == 2 else f[None] for f in factors], dim).to(device, torch.float32)

    def _check_same_base(self) -> None:
        cards = {name: steer.card for name, steer in self.steers.items()}
        first = next(iter(cards), "")
        if others := [name for name in cards if not cards[first].shares_base(cards[name])]:
            raise SteerError(f"steers of different base models cannot be mixed: {', '.join([first, *others])}.")


def row_by_row(rows: Sequence[Steering], before: Mix | None = None) -> Mix:
    """The mix of a batch whose rows ask for different steers. A steer adds an exact 0 to rows that do not ask for it.

    Where two rows ask for different steers of one name (it was fitted anew between two requests), the second gets the
    name with a prime (``'``).

    Args:
        rows: what each row asks for.
        before: the mix of the rows as they were. Where it has all the steers, they stay on the device, and so do a few
            that no row asks for any longer.
    """
    steers: dict[str, Steer] = dict(before.steers) if before else {}
    columns: dict[str, list[float]] = {}
    for row, (wanted, strengths) in enumerate(rows):
        for name, steer in wanted.items():
            key = name
            while steers.setdefault(key, steer) is not steer:
                key += "'"
            columns.setdefault(key, [0.0] * len(rows))[row] = strengths[name]
    if before and len(steers) == len(before.steers) <= len(columns) + _IDLE:
        return before.with_strengths({key: columns.get(key, [0.0] * len(rows)) for key in steers})
    return Mix({key: steers[key] for key in columns}, columns)


def _like(table: Tensor, x: Tensor) -> Tensor:
    """A table of strengths (B or 1, R) in a shape that broadcasts over ``x``: (B, 1.., R)."""
    table = broadcast_rows(table, x.shape[0])
    return table.reshape(table.shape[0], *[1] * (x.dim() - 2), -1)


@torch.inference_mode(False)
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
