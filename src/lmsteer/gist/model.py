"""The trainable part of a gist fit: embeddings of gist tokens, and a LoRA or changes of all weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.gist.embedding import gist_embeddings, gist_ids, initial_embedding
from lmsteer.gist.examples import Example
from lmsteer.gist.forward import output_log_likelihoods, output_loss
from lmsteer.gist.lookup import GistCard
from lmsteer.model.batching import length_buckets
from lmsteer.model.full_finetuning import FullFineTuning
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRA, body_layers


class GistModel(nn.Module):
    """A frozen model with trainable gist tokens and weights; the frozen part is left out of its checkpoints.

    Args:
        lm: the frozen model.
        config: how it is fitted.

    Raises:
        ModelError: a model whose weights are quantised.
    """

    def __init__(self, lm: LM, config: GistConfig) -> None:
        super().__init__()
        self.gist_config = config  # ``Trainer`` takes an attribute ``config`` for a config of transformers
        self._lm = lm
        count = 1 if config.share_embedding else config.tokens
        self.embeddings = nn.Parameter(initial_embedding(lm)[None].repeat(count, 1))
        self.weights: LoRA | FullFineTuning
        if config.full:
            embeddings = lm.model.get_input_embeddings()
            assert isinstance(embeddings, nn.Module)
            self.weights = FullFineTuning(lm, left_out=(embeddings, lm.head.module))
        else:
            self.weights = LoRA(lm, body_layers(lm), config.rank, config.seed)
        self.gist_ids = gist_ids(lm, config.tokens, count)

    def forward(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The mean loss of the output tokens in nats, under the condition of the fit.

        A batch with more tokens than ``tokens_per_microbatch`` is computed in parts, and each part again for its
        gradients, so that the batch with the longest examples needs no more memory than others.
        """
        rows = [[*each.prompt, *each.suffix] for each in examples]
        limit = self.gist_config.tokens_per_microbatch
        parts = [[examples[i] for i in part] for part in length_buckets(rows, limit)]
        if len(parts) == 1:
            return {"loss": -self.log_likelihoods(examples).mean()}
        computed = [checkpoint(self.log_likelihoods, part, use_reentrant=False) for part in parts]
        return {"loss": -torch.cat(computed).mean()}

    def log_likelihoods(self, examples: Sequence[Example]) -> Tensor:
        """Log-likelihood of each output token in nats (N,), under the condition of the fit."""
        with self.installed():
            return output_log_likelihoods(self._lm, self.gist_ids, examples, self.gist_config.condition)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the frozen model use what is trained, within a ``with`` block; gradients reach it."""
        weights = self.weights.installed() if isinstance(self.weights, FullFineTuning) else self.weights.attached()
        with weights, gist_embeddings(self._lm, self.embeddings):
            yield

    @property
    def conditions(self) -> list[GistCondition]:
        """The conditions of evaluations: all three, or for a control its own."""
        own = self.gist_config.condition
        return list(GistCondition) if own is GistCondition.GIST else [own]

    def losses(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean loss of all output tokens in nats, by condition."""
        with torch.no_grad(), self.installed():
            return {each.value: output_loss(self._lm, self.gist_ids, examples, each) for each in self.conditions}

    def adapter(self, card: GistCard) -> GistAdapter:
        """What has been trained; weights in bfloat16."""
        embeddings = self.embeddings.detach().cpu().clone()
        if isinstance(self.weights, FullFineTuning):
            return GistAdapter(embeddings, {}, card, self.weights.named_changes(torch.bfloat16))
        return GistAdapter(embeddings, self.weights.factors(torch.bfloat16), card)
