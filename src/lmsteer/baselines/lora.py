"""LoRA with a dial: ``x Wᵀ + s (α/r) (x Aᵀ) Bᵀ`` in some linear layers (Hu et al., 2021), s = the label of a text.

On the head alone it is what a steer is, but for what the update may be: a steer's stays within what E spans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.model.low_rank import LORA_SCALE, init_lora, linear_layers, lora_attached

_DOWN, _UP = "down", "up"
# What models call the product that makes values.
_VALUE = re.compile(r"v(_?proj|_?lin|alue)?")


def _all(lm: LM) -> list[str]:
    return [name for name, module in linear_layers(lm.model).items() if module is not lm.head.module]


def _head(lm: LM) -> list[str]:
    return [name for name, module in linear_layers(lm.model).items() if module is lm.head.module]


def _value(lm: LM) -> list[str]:
    return [name for name in linear_layers(lm.model) if _VALUE.fullmatch(name.rpartition(".")[2])][-1:]


PRESETS: dict[str, Callable[[LM], list[str]]] = {"all": _all, "value": _value, "head": _head}


@dataclass(frozen=True)
class LoRA(StoredBaseline, ForwardBaseline):
    """A LoRA whose scale is the strength. Stored: ``<layer>.down`` A (r, n) and ``<layer>.up`` (α/r) B (m, r)."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = {key.rpartition(".")[2] for key in self.tensors}
        names = {key.rpartition(".")[0] for key in self.tensors}
        if not names or ends != {_DOWN, _UP} or len(self.tensors) != 2 * len(names):
            raise DataError("a LoRA stores two factors of each of its layers.")

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """The layers with what the factors add.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        names = [key.removesuffix(f".{_DOWN}") for key in self.tensors if key.endswith(f".{_DOWN}")]
        factors = {name: (self.tensors[f"{name}.{_DOWN}"], self.tensors[f"{name}.{_UP}"]) for name in names}
        with _attached(lm, {name: (a.to(lm.device), b.to(lm.device)) for name, (a, b) in factors.items()}, strengths):
            yield


class LoRATrainer(Trainer):
    """Factors A (r, n), drawn as torch draws a layer's weight, and B (m, r), zero at first.

    Args:
        lm: the model.
        targets: a preset (``all``, ``value`` for the last layer's value matrix, ``head``), or how names of layers end.
        rank: r.
        seed: of A.

    Raises:
        ModelError: no such layers, one whose weight is packed, or ``all`` where most weights are in none.
    """

    rate = 1e-3

    def __init__(self, lm: LM, targets: str = "all", rank: int = 8, seed: int = 0) -> None:
        layers = linear_layers(lm.model)
        names = PRESETS[targets](lm) if targets in PRESETS else [name for name in layers if name.endswith(targets)]
        if not names:
            raise ModelError(f"{type(lm.model).__name__} has no linear layers {targets!r}, which a LoRA could be of.")
        if targets == "all":
            _check_covered(lm, names)
        self._lm, random = lm, torch.Generator().manual_seed(seed)
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name in names:
            a, b = init_lora(layers[name], rank, random, lm.device)
            self._factors[name] = (a.requires_grad_(), b.requires_grad_())

    def trainable(self) -> Sequence[Tensor]:
        """A and B of every layer."""
        return [factor for pair in self._factors.values() for factor in pair]

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """With the LoRA at each row's strength."""
        scaled = {name: (a, LORA_SCALE * b) for name, (a, b) in self._factors.items()}
        with _attached(self._lm, scaled, strengths):
            logits: Tensor = self._lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits

    def baseline(self, card: BaselineCard) -> LoRA:
        """The factors, the scale in B."""
        down = {f"{name}.{_DOWN}": a.detach().cpu().clone() for name, (a, _) in self._factors.items()}
        up = {f"{name}.{_UP}": LORA_SCALE * b.detach().cpu() for name, (_, b) in self._factors.items()}
        return LoRA(card, {**down, **up})


def _check_covered(lm: LM, names: Sequence[str]) -> None:
    """Experts are often no linear layers: a LoRA that leaves them out is no LoRA on everything."""
    tables = [module for module in lm.model.modules() if isinstance(module, nn.Embedding)]
    left_out = {id(p) for module in (*tables, lm.head.module) for p in module.parameters()}
    whole = sum(p.numel() for p in lm.model.parameters() if id(p) not in left_out)
    covered = sum(lm.model.get_parameter(f"{name}.weight").numel() for name in names)
    if 2 * covered < whole:
        raise ModelError(
            f"most weights of {type(lm.model).__name__} are experts, which are no linear layers: name the layers that "
            "the LoRA is to be of."
        )


def _attached(
    lm: LM, factors: Mapping[str, tuple[Tensor, Tensor]], strengths: Sequence[float] | Tensor
) -> AbstractContextManager[None]:
    try:
        layers = [(lm.model.get_submodule(name), a, b) for name, (a, b) in factors.items()]
    except AttributeError as error:
        raise WrongBaseError(f"{lm.name} has not the layers of this LoRA: {error}.") from error
    return lora_attached(layers, torch.as_tensor(strengths, dtype=torch.float32))
