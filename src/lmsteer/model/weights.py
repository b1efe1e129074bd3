"""Weights that are changed for a while: ``w + s Δ`` within a ``with`` block, and afterwards the former tensors again.

The model's own parameters are never written to. So they are the same afterwards, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lmsteer.errors import ModelError, WrongBaseError
from lmsteer.util.compat import replace_parameter


@contextmanager
def temporary_update(model: nn.Module, updates: Iterable[tuple[str, Tensor]], strength: float = 1.0) -> Iterator[None]:
    """Let parameters be ``w + s Δ`` within a ``with`` block; gradients reach Δ. Tied weights change together.

    Args:
        model: the model; its parameters may be on several devices.
        updates: the name of a parameter and Δ, of the parameter's shape; taken one by one, so that they may be
            computed on the way.
        strength: s.

    Raises:
        WrongBaseError: the model lacks one of the parameters, or has one of another shape.
        ModelError: a parameter that is quantised, or two updates of one parameter.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    places = _places(model)
    former: dict[int, nn.Parameter] = {}
    try:
        for name, update in updates:
            parameter = parameters.get(name)
            if parameter is None:
                raise WrongBaseError(f"{type(model).__name__} does not have the weight {name!r}, which is to change.")
            if id(parameter) in former:
                raise ModelError(
                    f"{type(model).__name__} has layers that share the weight {name!r}: it cannot take several updates."
                )
            changed = _changed(name, parameter, update, strength)
            former[id(parameter)] = parameter
            for module, own in places[id(parameter)]:
                replace_parameter(module, own, changed)
        yield
    finally:
        for key, original in former.items():
            for module, own in places[key]:
                replace_parameter(module, own, original)


def _changed(name: str, parameter: Tensor, update: Tensor, strength: float) -> Tensor:
    """``w + s Δ``, computed in the higher precision of both; laid out as w, which products are fast for."""
    if not parameter.is_floating_point():
        raise ModelError(f"the weight {name!r} is quantised ({parameter.dtype}); load the model unquantised.")
    if update.shape != parameter.shape:
        shape, own = tuple(update.shape), tuple(parameter.shape)
        raise WrongBaseError(f"there is an update for a weight of {shape}, but {name!r} of the model is {own}.")
    moved = update.to(parameter.device)
    return (parameter + (moved if strength == 1 else strength * moved)).to(parameter.dtype)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """The modules that hold a parameter, and its name in each, by the parameter's ``id``."""
    places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[id(parameter)].append((module, name))
    return places
