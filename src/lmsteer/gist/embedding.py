"""Embeddings of gist tokens: ids beyond the end of the vocabulary, so that nothing of the model is resized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmsteer.model.lm import LM

# Rows of the embedding that are averaged at once.
_CHUNK = 8192


def gist_ids(lm: LM, tokens: int, different: int) -> list[int]:
    """The ids of gist tokens: the first ones beyond the model's embedding.

    Args:
        lm: the model.
        tokens: number of gist tokens, G.
        different: number of different ids among them: G, or 1 if all share one embedding.
    """
    first = lm.codec.rows
    return list(range(first, first + different)) * (tokens // different)


@torch.no_grad()
def initial_embedding(lm: LM) -> Tensor:
    """The embedding (d,) that gist tokens start from, as it enters the first layer: the one of a line break.

    Models rest their attention on such tokens, and keep in them what came before. From the mean of all embeddings,
    which is the published start (Mu et al., 2023, section 3.3) and is used for tokenizers without a line break, a
    gist is learned later (docs/log.md).
    """
    module, rows = lm.model.get_input_embeddings(), lm.codec.rows
    device = _weight(lm).device
    if ids := lm.encode(["\n"], special=False)[0]:
        return module(torch.tensor(ids[-1:], device=device))[0].float()
    chunks = torch.arange(rows, device=device).split(_CHUNK)
    # On the CPU, since Apple's GPUs have no float64.
    total = torch.stack([module(chunk).cpu().double().sum(0) for chunk in chunks]).sum(0)
    return (total / rows).float().to(device)


@contextmanager
def gist_embeddings(lm: LM, embeddings: Tensor) -> Iterator[None]:
    """Give gist ids their embeddings (G, d) within a ``with`` block; gradients reach them."""
    rows = lm.codec.rows
    own = embeddings.to(_weight(lm).device)
    asked: list[Tensor] = []

    def clamp(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        asked.append(args[0])
        return (args[0].clamp(max=rows - 1), *args[1:])

    def replace(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        ids = asked.pop()
        gist = own[(ids - rows).clamp(min=0)].to(output)
        return torch.where((ids >= rows)[..., None], gist, output)

    module = lm.model.get_input_embeddings()
    with module.register_forward_pre_hook(clamp), module.register_forward_hook(replace):
        yield


def _weight(lm: LM) -> Tensor:
    weight: Any = lm.model.get_input_embeddings().weight
    return weight
