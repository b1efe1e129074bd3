"""Embedding tuning: word embeddings become ``e_v + s Δ_v``, also in the output where the model ties both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.baselines.row_strengths import broadcast_strengths
from lmsteer.model.lm import LM

_CHANGE = "change"


@dataclass(frozen=True)
class Embeddings(StoredBaseline, ForwardBaseline):
    """Changes of word embeddings. Stored: ``change`` Δ (V, d)."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=False
    )
    all_rows: ClassVar[str] = "it changes the word embeddings, and with them the head, where steers and limits act"

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """Change the embeddings within a ``with`` block.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        with lm.exclusive_use(), _changed_embeddings(lm, self.tensors[_CHANGE], torch.tensor(strengths)):
            yield


class EmbeddingsTrainer(Trainer):
    """Trains Δ (V, d), zero at first."""

    learning_rate = 1e-3

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        weight: Any = lm.model.get_input_embeddings().weight
        self._change = torch.zeros(weight.shape, device=weight.device, requires_grad=True)

    def trainable(self) -> Sequence[Tensor]:
        """Δ."""
        return [self._change]

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """Logits with Δ at each row's strength."""
        with _changed_embeddings(self._lm, self._change, strengths):
            logits: Tensor = self._lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits

    def baseline(self, card: BaselineCard) -> Embeddings:
        """Δ as it is now."""
        return Embeddings(card, {_CHANGE: self._change.detach().cpu().clone()})


class _WithoutHooks(nn.Module):
    """Calls the ``forward`` of a module, and none of its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Tensor:
        output: Tensor = self.module.forward(*args)
        return output


@contextmanager
def _changed_embeddings(lm: LM, change: Tensor, strengths: Tensor) -> Iterator[None]:
    module: Any = lm.model.get_input_embeddings()
    tied = module.weight is lm.head.module.weight
    bare = _WithoutHooks(module)
    by_device = {device: change.to(device) for device in {module.weight.device, lm.head.weight.device}}

    def add_to_input(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # The module's own forward pass over Δ: some models scale their embeddings there.
        weight = {"module.weight": by_device[module.weight.device]}
        moved: Tensor = torch.func.functional_call(bare, weight, args).to(output.device)
        return output + (broadcast_strengths(strengths.to(output.device).float(), output) * moved).to(output.dtype)

    def add_to_logits(_: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        weight = by_device[lm.head.weight.device]
        moved = (args[0].to(weight.device).float() @ weight.T).to(logits.device)
        return logits + (broadcast_strengths(strengths.to(logits.device).float(), logits) * moved).to(logits.dtype)

    with module.register_forward_hook(add_to_input):
        if not tied:
            yield
            return
        with lm.head.module.register_forward_hook(add_to_logits):
            yield
