"""Full fine-tuning as a steering method: every weight becomes ``w + s Δ``, trained at the label s of each text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.baselines.row_strengths import by_strength
from lmsteer.errors import SteerError
from lmsteer.model.full_finetuning import FullFineTuning
from lmsteer.model.lm import LM
from lmsteer.model.weights import temporary_update


@dataclass(frozen=True)
class FullBaseline(StoredBaseline, ForwardBaseline):
    """Changes of all weights. Stored: Δ of each parameter by its name."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=False, transferable=False
    )
    all_rows: ClassVar[str] = "it changes all weights, which all rows go through"

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Change the weights within a ``with`` block; afterwards they are the same as before, bit for bit.

        Raises:
            WrongBaseError: another base.
            SteerError: several strengths, which one set of weights cannot have.
        """
        self.check_base(lm)
        if len(set(strengths)) != 1:
            raise SteerError("full fine-tuning has one strength for all rows: they go through the same weights.")
        with lm.exclusive_use(), temporary_update(lm.model, self.tensors.items(), strengths[0]):
            yield


class FullTrainer(Trainer):
    """Trains Δ of every parameter.

    Raises:
        ModelError: a model whose weights are quantised.
    """

    learning_rate = 1e-5

    def __init__(self, lm: LM) -> None:
        self._lm, self._tuning = lm, FullFineTuning(lm)

    def trainable(self) -> Sequence[Tensor]:
        """Δ of every parameter."""
        return list(self._tuning.parameters())

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits; rows of one strength run together, through weights of their own."""
        return by_strength(strengths, lambda strength, rows: self._logits_at(strength, ids[rows], mask[rows]))

    def baseline(self, card: BaselineCard) -> FullBaseline:
        """Δ of the parameters that have changed."""
        return FullBaseline(
            card, {name: change for name, change in self._tuning.named_changes().items() if change.any()}
        )

    def _logits_at(self, strength: float, ids: Tensor, mask: Tensor) -> Tensor:
        with self._tuning.installed(strength):
            logits: Tensor = self._lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits
