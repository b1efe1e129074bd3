"""Gist tokens in the vocabulary: ids beyond its end, with embeddings of their own, and nothing of the model resized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmsteer.model.lm import LM

# Rows of the embedding that are averaged at once.
_PIECE = 8192


def gist_ids(lm: LM, tokens: int, different: int) -> list[int]:
    """The ids of gist tokens: the first that the model has no embedding for, so many of them different, repeated."""
    first = _rows(lm)
    return list(range(first, first + different)) * (tokens // different)


@torch.no_grad()
def first_embedding(lm: LM) -> Tensor:
    """Where gist tokens start from (d,), as it enters the first layer: a line break.

    Models rest their attention on such tokens, and keep in them what stood before. From the mean of all embeddings,
    which is the published start (section 3.3) and ours where a tokenizer has no line breaks, a gist learns later
    (docs/log.md).
    """
    module, rows = lm.model.get_input_embeddings(), _rows(lm)
    if ids := lm.encode(["\n"], special=False)[0]:
        return module(torch.tensor(ids[-1:], device=lm.device))[0].float()
    pieces = torch.arange(rows, device=lm.device).split(_PIECE)
    total = sum((module(piece).double().sum(0) for piece in pieces), torch.zeros((), device=lm.device))
    return (total / rows).float()


@contextmanager
def embedded(lm: LM, embeddings: Tensor) -> Iterator[None]:
    """Give gist ids the embeddings (G, d), within a ``with`` block; gradients reach them."""
    rows = _rows(lm)
    asked: list[Tensor] = []

    def known(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        asked.append(args[0])
        return (args[0].clamp(max=rows - 1), *args[1:])

    def replaced(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        ids = asked.pop()
        own = embeddings[(ids - rows).clamp(min=0)].to(output)
        return torch.where((ids >= rows)[..., None], own, output)

    module = lm.model.get_input_embeddings()
    with module.register_forward_pre_hook(known), module.register_forward_hook(replaced):
        yield


def _rows(lm: LM) -> int:
    weight: Any = lm.model.get_input_embeddings().weight
    return len(weight)
