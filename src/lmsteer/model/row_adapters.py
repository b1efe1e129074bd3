"""Adapters row by row: each row of a batch may have an adapter of its own, or none, in one forward pass.

::

    row 0   y              no adapter: the layer's own output, bit for bit
    row 1   y + s1 d1(x)
    row 2   y + s2 d1(x)   the same adapter, at another strength
    row 3   y + s3 d2(x)

The output of a layer is changed in the rows that have an adapter alone, so that these cost time and the others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors, check_layer
from lmsteer.model.onednn import linear
from lmsteer.steer.sites import output_of, with_output

# What is added to the output (b, .., m) of a layer at strength 1, given its input (b, .., n).
Addition = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class RowAdapter:
    """An adapter at a strength; rows that have the same one share the object.

    Attributes:
        additions: what is added to the outputs of layers, by their names. Rows with the same mapping run together.
        strength: its factor.
    """

    additions: Mapping[str, Addition]
    strength: float = 1.0


def constant_addition(direction: Tensor) -> Addition:
    """The addition of one direction (m,) at every token, whatever the input is."""
    return lambda _: direction


def lora_additions(lm: LM, layers: Mapping[str, LoRAFactors]) -> dict[str, Addition]:
    """The additions of a LoRA, its factors in the precision of the model and on the devices of their layers.

    Raises:
        WrongBaseError: the model lacks one of the layers, or has one of another size.
        ModelError: a layer whose weight is quantised, or the head, where steers act.
    """
    return {name: _lora_addition(lm, name, factors) for name, factors in layers.items()}


def _lora_addition(lm: LM, name: str, factors: LoRAFactors) -> Addition:
    module = check_layer(lm.model, name, factors)
    if module is lm.head.module:
        raise ModelError("a LoRA of the head cannot be one row's alone: steers and limits act there.")
    a, b = (factor.to(module.weight.device, module.weight.dtype).contiguous() for factor in factors)

    def addition(x: Tensor) -> Tensor:
        return linear(linear(x, a), b)

    return addition


class _Group(NamedTuple):
    """Rows with one adapter.

    Attributes:
        additions: the adapter.
        places: the places of the rows (b,); None if they are all of them.
        strengths: their strengths (b,).
    """

    additions: Mapping[str, Addition]
    places: Tensor | None
    strengths: Tensor


@dataclass(frozen=True)
class RowAdapters:
    """The adapters of the rows of forward passes, on the model's device.

    Attributes:
        lm: the model.
        rows: number of rows.
        groups: the rows of each adapter; empty if there are none.
    """

    lm: LM
    rows: int
    groups: Sequence[_Group]

    @classmethod
    def of(cls, lm: LM, adapters: Sequence[RowAdapter | None]) -> Self:
        """Those of some rows; None for rows without one."""
        places = dict[int, list[int]]()
        for place, adapter in enumerate(adapters):
            if adapter is not None:
                places.setdefault(id(adapter.additions), []).append(place)
        groups = list[_Group]()
        for own in places.values():
            shared = [adapter for adapter in (adapters[place] for place in own) if adapter is not None]
            strengths = torch.tensor([adapter.strength for adapter in shared], device=lm.device)
            at = None if len(own) == len(adapters) else torch.tensor(own, device=lm.device)
            groups.append(_Group(shared[0].additions, at, strengths))
        return cls(lm, len(adapters), groups)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the rows of forward passes have their adapters, within a ``with`` block."""
        with ExitStack() as stack:
            for group in self.groups:
                for name, addition in group.additions.items():
                    module: nn.Module = self.lm.model.get_submodule(name)
                    stack.enter_context(module.register_forward_hook(self._adding(group, addition)))
            yield

    def _adding(self, group: _Group, addition: Addition) -> Any:
        def add(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            y = output_of(output)
            # Some layers take the tokens of all rows one after the other.
            x_rows, y_rows = (each.reshape(self.rows, -1, each.shape[-1]) for each in (args[0], y))
            changed = _changed(x_rows, y_rows, group, addition).view(y.shape)
            return with_output(output, changed)

        return add


def _changed(x: Tensor, y: Tensor, group: _Group, addition: Addition) -> Tensor:
    """The output (B, T, m) of a layer with what a group adds to its rows, given the input (B, T, n)."""
    places = None if group.places is None else group.places.to(y.device)
    # A layer that is the first one on its device has its input on another.
    own = (x if group.places is None else x[group.places.to(x.device)]).to(y.device)
    # The product with a strength in float32 is rounded once: to bfloat16, a strength has 8 bits.
    shift = (group.strengths.to(y.device)[:, None, None] * addition(own)).to(y.dtype)
    return y + shift if places is None else y.index_add(0, places, shift.expand(-1, y.shape[1], -1))
