"""Matrix products with a model's weights, through oneDNN on a CPU.

Nearly all the work of a language model is ``x Wᵀ``. In float32, torch gives it to MKL, which uses half of the vector
width of many CPUs (of all of AMD's), and less when there are few rows. oneDNN comes with torch too, which uses it for
other dtypes. It takes the same weights as they lie in memory and is two to three times as fast (docs/speed.md).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmsteer.util.compat import has_onednn_linear, is_quantised, is_split, onednn_linear

_HAS_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and has_onednn_linear()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b`` (.., n) for rows ``x`` (.., m), weight (n, m) and bias (n,), as ``nn.functional.linear``.

    The gradient of ``x`` is computed by the fast product, that of the weights by torch's own.
    """
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if not _suits_onednn(x, weight) or (torch.is_grad_enabled() and trained):
        return nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return onednn_linear(x, weight, bias)


class Linear(nn.Linear):
    """torch's linear layer, computed by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """``x Wᵀ + b`` of ``input`` (.., m)."""
        return linear(input, self.weight, self.bias)


def use_onednn(model: PreTrainedModel) -> None:
    """Let the float32 linear layers of a model on the CPU compute by ``linear``; names, values and hooks stay.

    Other layers are left alone: a quantised one has its own product, and on a GPU a Python call per layer costs time.
    Weights are laid out by columns, as oneDNN reads them (10 to 20 % faster than by rows), except for the head, which
    is often the input embedding too.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is not nn.Linear or is_quantised(module.weight) or is_split(module.weight):
            continue
        if _suits_onednn(module.weight, module.weight):
            module.__class__ = Linear
            if module is not head:
                module.weight.data = module.weight.data.T.contiguous().T


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(grads[0], weight.T), None, None


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    float32_on_cpu = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    # A compiler has its own products, and inductor fails on this one where weights are not constants.
    is_plain = not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return _HAS_ONEDNN and float32_on_cpu and is_plain and bool(x.numel())
