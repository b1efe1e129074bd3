"""What is fitted: embeddings of gist tokens, and a LoRA or a trained copy of the weights, beside a frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmsteer.errors import DataError
from lmsteer.gist.adapter import GistAdapter, GistCard
from lmsteer.gist.embedding import embedded, first_embedding, gist_ids
from lmsteer.gist.examples import Example
from lmsteer.gist.forward import output_likelihood, output_loss
from lmsteer.gist.full import Full
from lmsteer.gist.lora import LoRA
from lmsteer.gist.masks import GistCondition
from lmsteer.model.batching import length_buckets
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class GistConfig:
    """How a gist adapter is fitted.

    Attributes:
        tokens: G.
        shared: whether all gist tokens have one embedding.
        rank: of the LoRA.
        full: train every weight but the embeddings in place of a LoRA; a rate of 1e-5 suits that.
        condition: of the mask; the controls are fitted like the thing itself.
        steps: of AdamW.
        batch: examples a step and process.
        learning_rate: the highest, which a cosine leads down from.
        seed: of the LoRA and of the order of examples.
        at_once: tokens of examples, padding included, whose activations are kept at once; a GPU has room for more.

    Raises:
        DataError: one out of range.
    """

    tokens: int = 1
    shared: bool = False
    rank: int = 8
    full: bool = False
    condition: GistCondition = GistCondition.GIST
    steps: int = 1000
    batch: int = 8
    learning_rate: float = 1e-3
    seed: int = 0
    at_once: int = 6144

    def __post_init__(self) -> None:
        for what in ("tokens", "rank", "steps", "batch", "at_once"):
            if getattr(self, what) < 1:
                raise DataError(f"{what} must be one or more, not {getattr(self, what)}.")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.seed < 1 << 32:
            raise DataError(f"the learning rate cannot be {self.learning_rate}, or the seed {self.seed}.")

    def to_json(self) -> dict[str, Any]:
        """What tells of the result, for machines: all but ``at_once``."""
        told = {**asdict(self), "condition": self.condition.value}
        del told["at_once"]
        return told


class GistModel(nn.Module):
    """What is trained; the frozen model is no part of it, so that checkpoints are small."""

    def __init__(self, lm: LM, settings: GistConfig) -> None:
        super().__init__()
        self.settings = settings
        self._lm = lm
        count = 1 if settings.shared else settings.tokens
        self.embeddings = nn.Parameter(first_embedding(lm)[None].repeat(count, 1).to(lm.device))
        self.weights = Full(lm) if settings.full else LoRA(lm, settings.rank, settings.seed)
        self.gist = gist_ids(lm, settings.tokens, count)

    def forward(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The mean loss of the output's tokens, in nats, under the condition that is trained.

        Long examples are taken some at a time, and read again for their gradients, so that the batch with the longest
        ones fits where the others do.
        """
        rows = [[*each.prompt, *each.rest] for each in examples]
        parts = [[examples[i] for i in part] for part in length_buckets(rows, self.settings.at_once)]
        if len(parts) == 1:
            return {"loss": -self._likelihood(examples).mean()}
        read = [checkpoint(self._likelihood, part, use_reentrant=False) for part in parts]
        return {"loss": -torch.cat(read).mean()}

    def _likelihood(self, examples: Sequence[Example]) -> Tensor:
        return output_likelihood(self._lm, self.gist, examples, self.settings.condition)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the frozen model work with what is trained, within a ``with`` block."""
        with self.weights.attached(), embedded(self._lm, self.embeddings):
            yield

    def losses(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean loss of all tokens of the outputs, in nats: under each condition, or under a control's own."""
        own = self.settings.condition
        looked_at = list(GistCondition) if own is GistCondition.GIST else [own]
        return {each.value: output_loss(self._lm, self.gist, examples, each) for each in looked_at}

    def adapter(self, card: GistCard) -> GistAdapter:
        """What has been trained."""
        embeddings = self.embeddings.detach().cpu().clone()
        if isinstance(self.weights, Full):
            return GistAdapter(embeddings, {}, {}, card, self.weights.changes())
        return GistAdapter(embeddings, *self.weights.factors(), card)
