"""The forward pass under a gist mask: rows of prompt, gist tokens and suffix -> hidden states, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.gist.config import GistCondition
from lmsteer.gist.examples import Example, example_layout
from lmsteer.gist.layout import Layout
from lmsteer.gist.masks import gist_masks
from lmsteer.model.batching import length_buckets
from lmsteer.model.lm import LM

# Tokens in a batch that is evaluated.
_TOKENS = 2048


def masked_hidden_states(lm: LM, layout: Layout, condition: GistCondition = GistCondition.GIST) -> Tensor:
    """The hidden states (B, T, d) before the head under a condition, on the head's device; gradients go through.

    An adapter has to be installed. Under ``GIST``, the suffix has the hidden states that it has after the gist alone.
    """
    masks = gist_masks(lm, layout, condition)
    return lm.before_head(input_ids=layout.ids, attention_mask=masks, position_ids=layout.positions)


def output_log_likelihoods(
    lm: LM, gist: Sequence[int], examples: Sequence[Example], condition: GistCondition
) -> Tensor:
    """Log-likelihood of each token of the outputs in nats (N,), example by example; gradients go through.

    Args:
        lm: the model, with gist tokens installed.
        gist: ids of the gist tokens.
        examples: a batch of examples.
        condition: condition of the attention mask.
    """
    layout, targets = example_layout(lm, examples, gist, without_prompts=condition is GistCondition.NEGATIVE)
    states, predicted = masked_hidden_states(lm, layout, condition)[:, :-1], targets[:, 1:]
    return lm.head.log_likelihood(states[predicted.to(states.device)], layout.ids[:, 1:][predicted])


@torch.no_grad()
def output_loss(lm: LM, gist: Sequence[int], examples: Sequence[Example], condition: GistCondition) -> float:
    """Mean loss of all tokens of the outputs, in nats."""
    total = 0.0
    for batch in length_buckets([[*each.prompt, *each.suffix] for each in examples], _TOKENS):
        total -= float(output_log_likelihoods(lm, gist, [examples[i] for i in batch], condition).sum())
    return total / max(sum(each.target_tokens for each in examples), 1)
