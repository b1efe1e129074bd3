"""Fingerprints: short digests that tell one model's weights, or one set of tensors, from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmsteer.util.compat import is_quantised, whole

# Values sampled from each parameter; they tell any two trained models apart.
_SAMPLES = 16


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's shapes and a sample of every parameter, rounded to bfloat16; 32 hex digits.

    Because of the rounding, a model has the same fingerprint in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        weight = whole(parameter)
        values = weight.dequantize() if is_quantised(weight) else weight
        digest.update(_sample(values).to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def head_sample(weight: Tensor, rows: int, first: int = 0) -> dict[int, float]:
    """Sixteen values of an output embedding, by their number; those of them that are in ``weight``, if it is a part.

    Args:
        weight: the embedding (V, d), or some consecutive rows of it.
        rows: V.
        first: the index of the first row of ``weight`` in the whole embedding.
    """
    places = sampled_places(rows, weight.shape[1])
    inside = [(k, row - first, column) for k, (row, column) in enumerate(places) if 0 <= row - first < len(weight)]
    return {k: float(weight[row, column]) for k, row, column in inside}


def sampled_places(rows: int, columns: int) -> list[tuple[int, int]]:
    """The places (row, column) in an output embedding whose values ``head_sample`` takes."""
    return [(k * rows // _SAMPLES, k * columns // _SAMPLES) for k in range(_SAMPLES)]


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and all values of some tensors, in float32; 32 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _sample(parameter: Tensor) -> Tensor:
    places = torch.arange(0, parameter.numel(), max(1, parameter.numel() // _SAMPLES))
    return parameter[torch.unravel_index(places[:_SAMPLES].to(parameter.device), parameter.shape)]
