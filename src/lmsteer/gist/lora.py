"""The LoRA of a gist fit: in every linear layer of a frozen model but its head (Hu et al., 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lmsteer.model.lm import LM
from lmsteer.model.low_rank import LORA_SCALE, init_lora, linear_layers, lora_attached


class LoRA(nn.Module):
    """Factors A (r, n) and B (m, r) of each layer; B is zero at first, and nothing is changed.

    Raises:
        ModelError: a model whose layers are quantised.
    """

    def __init__(self, lm: LM, rank: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        layers = {name: layer for name, layer in linear_layers(lm.model).items() if layer is not lm.head.module}
        self.names = list(layers)
        self._modules_of_lm = list(layers.values())
        pairs = [init_lora(layer, rank, random, lm.device) for layer in self._modules_of_lm]
        self.down, self.up = (nn.ParameterList(factors) for factors in zip(*pairs, strict=True))

    def attached(self) -> AbstractContextManager[None]:
        """Let the layers have what the factors add, within a ``with`` block."""
        return lora_attached(zip(self._modules_of_lm, self.down, self.up, strict=True), LORA_SCALE)

    def factors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A, and B with the scale in it, of each layer by name; in bfloat16, as adapters keep them."""

        def named(factors: Iterable[Tensor]) -> dict[str, Tensor]:
            return {name: f.detach().to("cpu", torch.bfloat16) for name, f in zip(self.names, factors, strict=True)}

        return named(self.down), named(LORA_SCALE * b for b in self.up)
