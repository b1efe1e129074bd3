"""Embedding tuning: word embeddings become ``e_v + s Δ_v``, going in, and coming out too where the model ties them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmsteer.baselines.baseline import BaselineCard, Capabilities, ForwardBaseline, StoredBaseline, Trainer
from lmsteer.baselines.rows import spread
from lmsteer.model.lm import LM

_CHANGE = "change"


@dataclass(frozen=True)
class Embeddings(StoredBaseline, ForwardBaseline):
    """Changed word embeddings. Stored: ``change`` Δ (V, d)."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        continuous=True, zero_is_base=True, composable=True, by_row=True, transferable=False
    )

    @contextmanager
    def at(self, lm: LM, strengths: Sequence[float]) -> Iterator[None]:
        """The embeddings with their change.

        Raises:
            WrongBaseError: another base.
        """
        self.check_base(lm)
        with _changed(lm, self.tensors[_CHANGE].to(lm.device), torch.tensor(strengths, device=lm.device)):
            yield


class EmbeddingsTrainer(Trainer):
    """Δ (V, d), zero at first."""

    rate = 1e-3

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        weight: Any = lm.model.get_input_embeddings().weight
        self._change = torch.zeros(weight.shape, device=lm.device, requires_grad=True)

    def trainable(self) -> Sequence[Tensor]:
        """Δ."""
        return [self._change]

    def logits(self, ids: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
        """With Δ at each row's strength."""
        with _changed(self._lm, self._change, strengths):
            logits: Tensor = self._lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return logits

    def baseline(self, card: BaselineCard) -> Embeddings:
        """Δ."""
        return Embeddings(card, {_CHANGE: self._change.detach().cpu().clone()})


@contextmanager
def _changed(lm: LM, change: Tensor, strengths: Tensor) -> Iterator[None]:
    scale = strengths.float().to(lm.device)
    module = lm.model.get_input_embeddings()
    tied = module.weight is lm.head.module.weight
    bare = copy(module)
    bare._forward_hooks = OrderedDict()

    def going_in(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # The module's own pass over Δ: some scale what they give.
        moved: Tensor = torch.func.functional_call(bare, {"weight": change}, args)
        return output + (spread(scale, output) * moved).to(output.dtype)

    def coming_out(_: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        return logits + (spread(scale, logits) * (args[0].float() @ change.T)).to(logits.dtype)

    with module.register_forward_hook(going_in):
        if not tied:
            yield
            return
        with lm.head.module.register_forward_hook(coming_out):
            yield
