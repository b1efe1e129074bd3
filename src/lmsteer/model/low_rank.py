"""Low-rank updates of linear layers while they are trained: ``x Wᵀ + s (x Aᵀ) Bᵀ`` (LoRA; Hu et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import ModelError
from lmsteer.model.onednn import linear
from lmsteer.steer.transform import broadcast_rows

# α / r of the paper, with the α of twice the rank that is usual.
LORA_SCALE = 2.0
# What is added to and rounded as numbers are; eight bits come with scales of their own.
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def linear_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Every linear layer of a model by its name, GPT-2's transposed ones too."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def check_floating(module: nn.Module, what: str) -> None:
    """Refuse a layer whose weight is packed.

    Raises:
        ModelError: it is.
    """
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.dtype not in _PLAIN:
        raise ModelError(f"{what} needs weights that are plain numbers; load the model unquantised.")


def init_lora(module: Any, rank: int, random: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factors of a layer: A (r, n), drawn as torch draws a layer's weight, and B (m, r), zero, so that nothing changes.

    Raises:
        ModelError: a layer whose weight is packed.
    """
    check_floating(module, "a LoRA")
    rows, columns = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
    a = (torch.rand(rank, columns, generator=random) * 2 - 1) * (1 / math.sqrt(columns))
    return a.to(device), torch.zeros(rows, rank, device=device)


@contextmanager
def lora_attached(layers: Iterable[tuple[nn.Module, Tensor, Tensor]], scale: float | Tensor) -> Iterator[None]:
    """Let layers have what their factors A and B add, within a ``with`` block; a scale as of ``add_lora``."""
    with ExitStack() as stack:
        for module, a, b in layers:
            stack.enter_context(module.register_forward_hook(_adding(a, b, scale)))
        yield


def _adding(a: Tensor, b: Tensor, scale: float | Tensor) -> Any:
    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return add_lora(output, args[0], a, b, scale)

    return add


def add_lora(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """``y + s (x Aᵀ) Bᵀ`` for ``y`` (B, .., m), ``x`` (B, .., n), ``A`` (r, n), ``B`` (m, r); gradients go through.

    Products are taken in the precision of ``x``, as the layer's own are, and the sum in that of ``y``; factors and
    their gradients keep theirs.

    Args:
        y: what the layer gives.
        x: what it is given.
        a: A.
        b: B.
        scale: s; one, or one for each row of the batch (B,).

    Raises:
        SteerError: not as many scales as there are rows.
    """
    if isinstance(scale, Tensor):
        scale = broadcast_rows(scale.to(x.device, x.dtype)[:, None], x[..., 0].numel())
    found: Tensor = _WithLowRank.apply(y, x, a, b, scale)  # type: ignore[no-untyped-call]
    return found


class _WithLowRank(torch.autograd.Function):
    """By products that are quick for few columns.

    Written out, with autograd's own products of slim matrices and a pass over y for every sign, the update takes two
    thirds of the time of the model's own layers; so it takes a tenth.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float | Tensor) -> Tensor:
        t = scale * linear(_rows(x), a.to(x.dtype))
        ctx.save_for_backward(x, t, a, b)
        ctx.scale = scale
        return torch.addmm(_rows(y), t.to(y.dtype), b.T.to(y.dtype)).view(y.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, t, a, b = ctx.saved_tensors
        g = _rows(grads[0]).to(t.dtype)
        of_t = ctx.scale * linear(g, b.T.to(g.dtype))
        of_x = (of_t @ a.to(of_t.dtype)).view(x.shape)
        return grads[0], of_x, linear(of_t.T, _rows(x).T).to(a.dtype), linear(t.T, g.T).T.to(b.dtype), None


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1]) if x.is_contiguous() else x.reshape(-1, x.shape[-1])
