"""Checkpoints of the published LM-Steer code: pickled lists of arguments, factors and step.

torch's restricted loader reads them: it builds tensors and plain containers, and executes no code.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Form, Steer

# The published code multiplies W by this (its ``--epsilon``); it draws the factors from N(0, 1e-2²).
_EPSILON = 1e-3
_FACTOR_NAMES = {"projector1": "A", "projector2": "B", "add_vec": "a", "offset_vec": "o"}
_FORMS: Mapping[frozenset[str], Form] = {
    frozenset({"A", "B"}): "multiply",
    frozenset({"a"}): "add",
    frozenset({"o"}): "offset",
}


def import_published(checkpoint: str | Path, card: Card, hidden_size: int, vocabulary: int) -> list[Steer]:
    """Read the steers of a published checkpoint; its scale on W (``epsilon``) goes into the factors.

    Args:
        checkpoint: path of the ``.pt`` file, which holds ``num_steers`` steers.
        card: card of the first steer; with several steers, ``-0``, ``-1`` ... are added to its name.
        hidden_size: hidden size of the model.
        vocabulary: number of rows of the model's output embedding.

    Raises:
        SteerError: the file is not such a checkpoint, needs code to be run, or is for another model shape.
    """
    arguments, factors = _read(Path(checkpoint))
    scale = getattr(arguments, "epsilon", None) or _EPSILON
    if not isinstance(scale, (int, float)):
        raise SteerError(f"{checkpoint} has an epsilon of {scale!r}, which is no number.")
    stacked = {
        _FACTOR_NAMES[key]: value.float()
        for key, value in factors.items()
        if key in _FACTOR_NAMES and isinstance(value, Tensor) and value.dim()
    }
    form = _FORMS.get(frozenset(stacked))
    if form is None:
        raise SteerError(f"{checkpoint} holds {sorted(factors)}; expected {sorted(_FACTOR_NAMES)}.")
    counts = {value.shape[0] for value in stacked.values()}
    if len(counts) > 1:
        raise SteerError(f"{checkpoint} holds factors of different numbers of steers: {sorted(counts)}.")
    (count,) = counts
    fit = {"method": "published", "arguments": _plain(vars(arguments))}
    return [
        Steer(
            form,
            {key: value[k].contiguous() for key, value in stacked.items()},
            hidden_size,
            vocabulary,
            replace(card, name=card.name if count == 1 else f"{card.name}-{k}", fit=fit),
        ).scaled(scale)
        for k in range(count)
    ]


def _read(checkpoint: Path) -> tuple[argparse.Namespace, Mapping[str, Tensor]]:
    try:
        # Beside tensors and containers only the class Namespace is allowed, which runs no code of its own.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SteerError(f"no such file: {checkpoint}.") from error
    except Exception as error:  # a file that is no pickle can fail in any way
        raise SteerError(
            f"{checkpoint} is not a published checkpoint that can be read without running code: {error}"
        ) from error
    match content:
        case [argparse.Namespace() as arguments, Mapping() as factors, *_]:
            return arguments, factors
    raise SteerError(f"{checkpoint} is not a published checkpoint (a list of arguments, factors and step).")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (str, int, float, bool, list, type(None)))}
