"""Full fine-tuning with a dial: every weight becomes ``w + s Δ``, s = the label of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.baselines.rows import by_strength
from lmsteer.errors import ModelError, SteerError, WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.model.weights import temporary_update


@dataclass(frozen=True)
class Full(StoredBaseline, ForwardBaseline):
    """Changed weights. Stored: Δ of each parameter by its name."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=False, transferable=False
    )

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """The weights with their change; afterwards they are what they were, bit for bit.

        Raises:
            WrongBaseError: another base.
            SteerError: several strengths, which one set of weights cannot have.
        """
        self.check_base(lm)
        if len(set(strengths)) != 1:
            raise SteerError("full fine-tuning has one strength for all rows: they go through the same weights.")
        try:
            parameters = {name: lm.model.get_parameter(name) for name in self.tensors}
        except AttributeError as error:
            raise WrongBaseError(f"{lm.name} has not the weights of this fine-tuning: {error}.") from error
        with ExitStack() as stack:
            for name, parameter in parameters.items():
                stack.enter_context(temporary_update(parameter, strengths[0] * self.tensors[name]))
            yield


class FullTrainer(Trainer):
    """Δ of every parameter, zero at first.

    Raises:
        ModelError: a model whose weights are packed.
    """

    rate = 1e-5

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        parameters = dict(lm.model.named_parameters())
        if not all(parameter.is_floating_point() for parameter in parameters.values()):
            raise ModelError("full fine-tuning needs weights that are plain numbers; load the model unquantised.")
        self._changes = {
            name: torch.zeros(parameter.shape, device=parameter.device, requires_grad=True)
            for name, parameter in parameters.items()
        }

    def trainable(self) -> Sequence[Tensor]:
        """Δ of every parameter."""
        return list(self._changes.values())

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Rows of one strength at a time, each lot through weights of its own."""
        return by_strength(strengths, lambda strength, rows: self._pass(ids[rows], mask[rows], strength))

    def baseline(self, card: BaselineCard) -> Full:
        """Δ, of those that have changed."""
        changes = {name: change.detach().cpu() for name, change in self._changes.items()}
        return Full(card, {name: change.clone() for name, change in changes.items() if change.any()})

    def _pass(self, ids: Tensor, mask: Tensor, strength: float) -> Tensor:
        parameters = dict(self._lm.model.named_parameters())
        moved = {n: p + (strength * self._changes[n]).to(p.dtype) for n, p in parameters.items()}
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        logits: Tensor = torch.func.functional_call(self._lm.model, moved, kwargs=given, tie_weights=True).logits
        return logits
