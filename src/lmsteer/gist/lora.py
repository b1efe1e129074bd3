"""LoRA while it is trained: ``x Wᵀ + 2 (x Aᵀ) Bᵀ`` in every linear layer of a frozen model but its head.

Hu et al., 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import ModelError
from lmsteer.lm import LM
from lmsteer.low_rank import with_low_rank

# α / r of the paper, with the α of twice the rank that is usual.
_SCALE = 2.0


# What is added to and rounded as numbers are; eight bits come with scales of their own.
PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_floating(module: nn.Module, what: str) -> None:
    """Refuse a layer whose weight is packed.

    Raises:
        ModelError: it is.
    """
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.dtype not in PLAIN:
        raise ModelError(f"{what} needs weights that are plain numbers; load the model unquantised.")


class LoRA(nn.Module):
    """Factors A (r, n) and B (m, r) of each layer; B is zero at first, and nothing is changed.

    Raises:
        ModelError: a model whose layers are quantised.
    """

    def __init__(self, lm: LM, rank: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        layers = {
            name: module
            for name, module in lm.model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not lm.head.module
        }
        self.names = list(layers)
        self._modules_of_lm = list(layers.values())
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for module in self._modules_of_lm:
            check_floating(module, "a LoRA")
            rows, columns = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
            bound = 1 / math.sqrt(columns)  # as torch draws a linear layer's weight
            a = (torch.rand(rank, columns, generator=random) * 2 - 1) * bound
            self.down.append(nn.Parameter(a.to(lm.device)))
            self.up.append(nn.Parameter(torch.zeros(rows, rank, device=lm.device)))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the layers have what the factors add, within a ``with`` block."""
        with ExitStack() as stack:
            for module, a, b in zip(self._modules_of_lm, self.down, self.up, strict=True):
                stack.enter_context(module.register_forward_hook(_adding(a, b)))
            yield

    def factors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A, and B with the scale in it, of each layer by name; in bfloat16, as adapters keep them."""

        def named(factors: Iterable[Tensor]) -> dict[str, Tensor]:
            return {name: f.detach().to("cpu", torch.bfloat16) for name, f in zip(self.names, factors, strict=True)}

        return named(self.down), named(_SCALE * b for b in self.up)


def _adding(a: Tensor, b: Tensor) -> Any:
    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return with_low_rank(output, args[0], a, b, _SCALE)

    return add
