"""LoRA: low-rank updates of linear layers, ``y = x Wᵀ + s (α/r) (x Aᵀ) Bᵀ`` (Hu et al., 2021, arXiv 2106.09685).

A layer's weight W is (m, n); its two factors A (r, n) and B (m, r) are called ``lora_A`` and ``lora_B``, as PEFT calls
them. Factors that are stored have the scaling α/r in ``lora_B``, which is PEFT's convention for ``lora_alpha = r``.

There are two ways to apply them. *Beside* the weights, each layer's output gets ``s (x Aᵀ) Bᵀ`` added to it: nothing
is copied, and each row of a batch may have a strength s of its own. *Merged*, the layer's weight is replaced by
``W + B A``: a forward pass takes no longer than the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.model.onednn import linear
from lmsteer.model.weights import temporary_update
from lmsteer.steer.transform import broadcast_rows

LORA_A, LORA_B = "lora_A", "lora_B"
# α / r, with the usual α of twice the rank.
LORA_SCALING = 2.0
# Numbers of 8 bits and less come with scales of their own, and nothing can be added to them.
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class LoRAFactors(NamedTuple):
    """The factors of one layer, the scaling α/r in ``lora_B``.

    Attributes:
        lora_A: A (r, n).
        lora_B: B (m, r), times α/r.
    """

    lora_A: Tensor
    lora_B: Tensor


def to_tensors(layers: Mapping[str, LoRAFactors]) -> dict[str, Tensor]:
    """Factors of layers by name, as they are stored: ``<layer>.lora_A`` and ``<layer>.lora_B``."""
    tensors = {f"{name}.{LORA_A}": factors.lora_A for name, factors in layers.items()}
    return tensors | {f"{name}.{LORA_B}": factors.lora_B for name, factors in layers.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, LoRAFactors]:
    """The inverse of ``to_tensors``; tensors under other names are ignored.

    Raises:
        DataError: a layer has only one factor, or two of different ranks.
    """
    a, b = (
        {key.removesuffix(f".{end}"): tensor for key, tensor in tensors.items() if key.endswith(f".{end}")}
        for end in (LORA_A, LORA_B)
    )
    if a.keys() != b.keys() or any(b[name].shape[1:] != factor.shape[:1] for name, factor in a.items()):
        raise DataError("a LoRA stores two factors of each of its layers, of one rank.")
    return {name: LoRAFactors(factor, b[name]) for name, factor in a.items()}


def linear_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Every linear layer of a model by its name, including GPT-2's transposed ones."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def body_layers(lm: LM) -> list[str]:
    """The names of all linear layers but the head."""
    return [name for name, module in linear_layers(lm.model).items() if module is not lm.head.module]


class LoRA(nn.Module):
    """Trainable factors of some layers of a frozen model; lora_B is zero at first, so that they change nothing.

    Args:
        lm: the model.
        names: the names of the layers.
        rank: r.
        seed: seed of lora_A, which is drawn as torch draws a layer's weight.

    Raises:
        ModelError: a layer whose weight is quantised.
    """

    def __init__(self, lm: LM, names: Iterable[str], rank: int, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self._lm, self.names = lm, list(names)
        pairs = [_init_factors(lm.model.get_submodule(name), rank, random) for name in self.names]
        self.lora_A = nn.ParameterList(a for a, _ in pairs)
        self.lora_B = nn.ParameterList(b for _, b in pairs)

    def attached(self, strengths: Tensor | None = None) -> AbstractContextManager[None]:
        """Apply the factors beside the weights within a ``with`` block; gradients reach them.

        Args:
            strengths: one, or one for each row of the batch (B,); 1 if None.
        """
        scaling = LORA_SCALING if strengths is None else LORA_SCALING * strengths
        return lora_attached(self._lm.model, self._layers(), scaling)

    def factors(self, dtype: torch.dtype = torch.float32) -> dict[str, LoRAFactors]:
        """A copy of the factors on the CPU, the scaling in lora_B."""
        return {
            name: LoRAFactors(a.detach().to("cpu", dtype, copy=True), (LORA_SCALING * b.detach()).to("cpu", dtype))
            for name, (a, b) in self._layers().items()
        }

    def _layers(self) -> dict[str, LoRAFactors]:
        return {n: LoRAFactors(a, b) for n, a, b in zip(self.names, self.lora_A, self.lora_B, strict=True)}


@contextmanager
def lora_attached(
    model: PreTrainedModel, layers: Mapping[str, LoRAFactors], strengths: float | Tensor = 1.0
) -> Iterator[None]:
    """Apply factors beside the weights of a model within a ``with`` block.

    Args:
        model: the model; its layers may be on several devices.
        layers: factors by the names of the layers.
        strengths: as in ``add_lora``.

    Raises:
        WrongBaseError: the model lacks one of the layers, or has one of another size.
        ModelError: a layer whose weight is quantised.
    """
    with ExitStack() as stack:
        for name, factors in layers.items():
            module = check_layer(model, name, factors)
            device = module.weight.device
            a, b = (factor.to(device) for factor in factors)
            scale = strengths.to(device) if isinstance(strengths, Tensor) else strengths
            stack.enter_context(module.register_forward_hook(_adding(a, b, scale)))
        yield


@contextmanager
def lora_installed(model: PreTrainedModel, layers: Mapping[str, LoRAFactors]) -> Iterator[None]:
    """Apply factors at strength 1 within a ``with`` block, the way that suits each layer.

    Float32 weights on a CPU are merged: an update beside every layer takes a sixth of the time there (docs/log.md),
    and float32 rounds to 1e-7. All others stay as they are, and the update is added beside them: copies would take as
    much memory as the weights, and in half precision ``W + B A`` rounds away most of a small update, while
    ``x Wᵀ + (x Aᵀ) Bᵀ`` is exactly what was trained.

    Raises:
        WrongBaseError: the model lacks one of the layers, or has one of another size.
        ModelError: a layer whose weight is quantised, or layers that share a weight that is to be merged.
    """
    modules = {name: check_layer(model, name, factors) for name, factors in layers.items()}
    merged = [name for name, module in modules.items() if _is_merged(module.weight)]
    beside = {name: factors for name, factors in layers.items() if name not in set(merged)}
    updates = ((f"{name}.weight", lora_update(modules[name], layers[name])) for name in merged)
    with temporary_update(model, updates), lora_attached(model, beside):
        yield


def lora_update(layer: nn.Module, factors: LoRAFactors) -> Tensor:
    """The update ``B A`` of a layer's weight, in float32 and in the weight's shape (GPT-2's weights are transposed)."""
    product = factors.lora_B.float() @ factors.lora_A.float()
    return product.T if isinstance(layer, Conv1D) else product


def check_floating(module: nn.Module) -> None:
    """Refuse a layer whose weight is quantised.

    Raises:
        ModelError: it is.
    """
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.dtype not in _PLAIN:
        raise ModelError("a LoRA needs weights that are plain numbers; load the model unquantised.")


def add_lora(y: Tensor, x: Tensor, a: Tensor, b: Tensor, strengths: float | Tensor = 1.0) -> Tensor:
    """``y + s (x Aᵀ) Bᵀ`` for ``y`` (B, .., m), ``x`` (B, .., n), ``A`` (r, n), ``B`` (m, r); gradients go through.

    Products are taken in the precision of ``x``, as the layer's own are, and the sum in that of ``y``; factors and
    their gradients keep theirs, and so do strengths: in bfloat16 they would have 8 bits.

    Args:
        y: the output of the layer.
        x: its input.
        a: A.
        b: B.
        strengths: s; one, or one for each row of the batch (B,).

    Raises:
        SteerError: the number of strengths does not suit the number of rows.
    """
    if isinstance(strengths, Tensor):
        strengths = broadcast_rows(strengths.to(x.device)[:, None], x[..., 0].numel())
    updated: Tensor = _AddLoRA.apply(y, x, a, b, strengths)  # type: ignore[no-untyped-call]
    return updated


class _AddLoRA(torch.autograd.Function):
    """The update with its gradients written out, by products that are fast for few columns.

    With autograd's own products of slim matrices and a pass over y for every sign, the update takes two thirds of the
    time of the model's own layers; written out, a tenth.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, strengths: float | Tensor) -> Tensor:
        t = (strengths * linear(_rows(x), a.to(x.dtype))).to(x.dtype)
        ctx.save_for_backward(x, t, a, b)
        ctx.strengths = strengths
        return torch.addmm(_rows(y), t.to(y.dtype), b.T.to(y.dtype)).view(y.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, t, a, b = ctx.saved_tensors
        g = _rows(grads[0]).to(t.dtype)
        of_t = (ctx.strengths * linear(g, b.T.to(g.dtype))).to(g.dtype)
        of_x = (of_t @ a.to(of_t.dtype)).view(x.shape)
        return grads[0], of_x, linear(of_t.T, _rows(x).T).to(a.dtype), linear(t.T, g.T).T.to(b.dtype), None


def _init_factors(module: Any, rank: int, random: torch.Generator) -> LoRAFactors:
    check_floating(module)
    rows, columns = _shape(module)
    a = (torch.rand(rank, columns, generator=random) * 2 - 1) * (1 / math.sqrt(columns))
    device = module.weight.device
    return LoRAFactors(a.to(device), torch.zeros(rows, rank, device=device))


def check_layer(model: PreTrainedModel, name: str, factors: LoRAFactors) -> Any:
    """The layer that factors are for.

    Raises:
        WrongBaseError: the model lacks it, or has one of another size.
        ModelError: its weight is quantised.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise WrongBaseError(f"{type(model).__name__} does not have the layers of this LoRA: {error}.") from error
    check_floating(module)
    shape = (factors.lora_B.shape[0], factors.lora_A.shape[1])
    if _shape(module) != shape:
        raise WrongBaseError(f"the LoRA is for a layer of {shape}, but {name} of the model is {_shape(module)}.")
    return module


def _shape(module: Any) -> tuple[int, int]:
    """The size (m, n) of a layer: outputs, then inputs."""
    rows, columns = module.weight.T.shape if isinstance(module, Conv1D) else module.weight.shape
    return rows, columns


def _is_merged(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _adding(a: Tensor, b: Tensor, strengths: float | Tensor) -> Any:
    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return add_lora(output, args[0], a, b, strengths)

    return add


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1]) if x.is_contiguous() else x.reshape(-1, x.shape[-1])
