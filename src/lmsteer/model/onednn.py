"""Products with a model's weights, on a CPU through oneDNN.

Nearly all that a language model does is ``x Wᵀ``. In float32, torch hands it to MKL, which leaves half of the vector
width of many CPUs unused (of AMD's, all of them), and most of it when there are few rows. oneDNN, which torch carries
too and uses for other dtypes, takes the same weights as they lie and is two to three times as fast (docs/speed.md).
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_HAS_ONE_DNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b`` (.., n) of rows ``x`` (.., m), weight (n, m) and bias (n,), as ``nn.functional.linear``.

    Gradients reach ``x`` through the fast product, weights through torch's own.
    """
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if not _suits_one_dnn(x, weight) or (torch.is_grad_enabled() and trained):
        return nn.functional.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return _one_dnn(x, weight, bias)


class Linear(nn.Linear):
    """torch's linear layer, its product taken by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """``x Wᵀ + b`` of ``input`` (.., m)."""
        return linear(input, self.weight, self.bias)


def use_onednn(model: PreTrainedModel) -> None:
    """Have the plain linear layers of a model take their products by ``linear``; names, values and hooks stay.

    Their weights are laid out by columns, as oneDNN reads them (a tenth to a fifth faster than by rows); the head's,
    which mostly is the input embedding too, stays as it is.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
            if module is not head and _suits_one_dnn(module.weight, module.weight):
                module.weight.data = module.weight.data.T.contiguous().T


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _one_dnn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(grads[0], weight.T), None, None


def _suits_one_dnn(x: Tensor, weight: Tensor) -> bool:
    float32_on_cpu = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    # A compiler has products of its own, and inductor fails on this one where weights are no constants.
    is_plain = not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return _HAS_ONE_DNN and float32_on_cpu and is_plain and bool(x.numel())


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
