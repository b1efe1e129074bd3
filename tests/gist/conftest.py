"""Random gist adapters of tiny models, strong enough to change what they write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmsteer.gist.adapter import GistAdapter, GistCard
from lmsteer.model.lm import LM


def random_adapter(lm: LM, tokens: int = 2, *, shared: bool = False, rank: int = 2, seed: int = 0) -> GistAdapter:
    random = torch.Generator().manual_seed(seed)
    size = lm.model.get_input_embeddings()(torch.tensor([1], device=lm.device)).shape[1]
    down, up = {}, {}
    for name, module in lm.model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not lm.head.module:
            shape = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
            down[name] = torch.randn(rank, shape[1], generator=random) * 0.2
            up[name] = torch.randn(shape[0], rank, generator=random) * 0.2
    card = GistCard(lm.name, lm.fingerprint, lm.tokenizer_fingerprint, tokens)
    return GistAdapter(torch.randn(1 if shared else tokens, size, generator=random), down, up, card)


@pytest.fixture(scope="session")
def adapter_of() -> Callable[..., GistAdapter]:
    """Makes an adapter of a model."""
    return random_adapter
