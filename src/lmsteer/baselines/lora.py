"""LoRA as a steering method: ``x Wᵀ + s (α/r) (x Aᵀ) Bᵀ`` in some linear layers (Hu et al., 2021).

It is trained on each text at the strength s that is the text's label. On the head alone its update of the output
embedding is of any kind, where that of a steer stays within what the embedding's rows span.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.errors import DataError, ModelError
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRA, body_layers, from_tensors, linear_layers, lora_attached, to_tensors
from lmsteer.model.row_adapters import RowAdapter, lora_additions
from lmsteer.model.row_layers import check_rows

# Names that models give to the layer that computes values.
_VALUE = re.compile(r"v(_?proj|_?lin|alue)?")


def _head(lm: LM) -> list[str]:
    return [name for name, module in linear_layers(lm.model).items() if module is lm.head.module]


def _value(lm: LM) -> list[str]:
    return [name for name in linear_layers(lm.model) if _VALUE.fullmatch(name.rpartition(".")[2])][-1:]


PRESETS: dict[str, Callable[[LM], list[str]]] = {"all": body_layers, "value": _value, "head": _head}


@dataclass(frozen=True)
class LoRABaseline(StoredBaseline, ForwardBaseline):
    """A LoRA whose scale is the strength. Stored: ``<layer>.lora_A`` A (r, n) and ``<layer>.lora_B`` (α/r) B (m, r)."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = from_tensors(self.tensors)
        if not layers or 2 * len(layers) != len(self.tensors):
            raise DataError("a LoRA stores two factors of each of its layers, and nothing else.")

    def for_rows(self, lm: LM) -> Callable[[float], Start]:
        """Rows with the factors beside the weights, at any strength.

        Raises:
            WrongBaseError: another base.
            ModelError: a LoRA of the head, or a model whose rows cannot have an adapter each.
        """
        self.check_base(lm)
        check_rows(lm)
        additions = lora_additions(lm, from_tensors(self.tensors))
        return lambda strength: Start((), adapter=RowAdapter(additions, strength))

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Apply the factors beside the weights within a ``with`` block.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        with lm.exclusive_use(), lora_attached(lm.model, from_tensors(self.tensors), torch.tensor(strengths)):
            yield


class LoRATrainer(Trainer):
    """Trains a LoRA.

    Args:
        lm: the model.
        targets: a preset (``all``; ``value`` for the last layer's value matrix; ``head``), the end of the names of
            layers, or these names.
        rank: r.
        seed: seed of A.

    Raises:
        ModelError: no such layers, one whose weight is quantised, or ``all`` where most weights are in other layers.
    """

    learning_rate = 1e-3

    def __init__(self, lm: LM, targets: str | Sequence[str] = "all", rank: int = 8, seed: int = 0) -> None:
        names = _names(lm, targets)
        if not names:
            raise ModelError(f"{type(lm.model).__name__} has no linear layers {targets!r} for a LoRA.")
        if targets == "all":
            _check_covered(lm, names)
        self._lm, self._lora = lm, LoRA(lm, names, rank, seed)

    def trainable(self) -> Sequence[Tensor]:
        """A and B of every layer."""
        return [factor for pair in zip(self._lora.lora_A, self._lora.lora_B, strict=True) for factor in pair]

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits with the LoRA at each row's strength."""
        with self._lora.attached(strengths.float()):
            logits: Tensor = self._lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits

    def baseline(self, card: BaselineCard) -> LoRABaseline:
        """The factors as they are now."""
        return LoRABaseline(card, to_tensors(self._lora.factors()))


def _names(lm: LM, targets: str | Sequence[str]) -> list[str]:
    if not isinstance(targets, str):
        return [*targets]
    if targets in PRESETS:
        return PRESETS[targets](lm)
    return [name for name in linear_layers(lm.model) if name.endswith(targets)]


def _check_covered(lm: LM, names: Sequence[str]) -> None:
    """Refuse a model whose weights are mostly experts, which are no linear layers: the LoRA would leave them out."""
    tables = [module for module in lm.model.modules() if isinstance(module, nn.Embedding)]
    left_out = {id(p) for module in (*tables, lm.head.module) for p in module.parameters()}
    whole = sum(p.numel() for p in lm.model.parameters() if id(p) not in left_out)
    covered = sum(lm.model.get_parameter(f"{name}.weight").numel() for name in names)
    if 2 * covered < whole:
        raise ModelError(
            f"most weights of {type(lm.model).__name__} are experts, which are no linear layers: name the layers of "
            "the LoRA."
        )
