"""The forward pass under a gist mask: rows of prompt, gist tokens and rest -> hidden states, all at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.gist.examples import Example, lay_out
from lmsteer.gist.layout import Layout
from lmsteer.gist.masks import GistCondition, gist_masks
from lmsteer.model.batching import length_buckets
from lmsteer.model.lm import LM

# Tokens of examples that are read at once.
_TOKENS = 2048


def masked_states(lm: LM, layout: Layout, condition: GistCondition = GistCondition.GIST) -> Tensor:
    """The rows (B, T, d) that the head is given under a condition; gradients go through.

    An adapter has to be installed. Under ``GIST``, what follows the gist tokens gets what their cache would give it.
    """
    masks = gist_masks(lm, layout, condition)
    return lm.before_head(input_ids=layout.ids, attention_mask=masks, position_ids=layout.positions)


def output_likelihood(lm: LM, gist: Sequence[int], examples: Sequence[Example], condition: GistCondition) -> Tensor:
    """Log-likelihood of each token of the outputs, example by example (N,); gradients go through.

    Args:
        lm: the model, which knows gist tokens.
        gist: their ids.
        examples: a batch.
        condition: what the outputs see.
    """
    layout, targets = lay_out(lm, examples, gist, hidden=condition is GistCondition.NEGATIVE)
    h = masked_states(lm, layout, condition)[:, :-1][targets[:, 1:]]
    return lm.head.log_likelihood(h, layout.ids[:, 1:][targets[:, 1:]])


@torch.no_grad()
def output_loss(lm: LM, gist: Sequence[int], examples: Sequence[Example], condition: GistCondition) -> float:
    """Mean loss of all tokens of the outputs, in nats."""
    total = 0.0
    for batch in length_buckets([[*each.prompt, *each.rest] for each in examples], _TOKENS):
        total -= float(output_likelihood(lm, gist, [examples[i] for i in batch], condition).sum())
    return total / max(sum(each.targets for each in examples), 1)
