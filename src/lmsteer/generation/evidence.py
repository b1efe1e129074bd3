"""The evidence of a token: what a steer reads in it, from what a step of the decoder has at hand.

With the raw logits ``z₀`` of the unsteered model and their shift ``z₁`` by the steer at strength 1, the distributions
at strengths +1 and -1 are ``p± = softmax(post(z₀ ± z₁))``. The evidence of a token ``y`` is ``log p₊(y) - log p₋(y)``,
in nats, which is what ``lmsteer.analyse`` finds in each token of a text, but for the end of text, where the steer's
end-of-text component acts there alone; that of a text is the sum over its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmsteer.model.head import Head


def token_evidence(head: Head, z0: Tensor, z1: Tensor, tokens: Tensor) -> Tensor:
    """The evidence (N,) of tokens under one steer, in float32.

    Args:
        head: the model's head, for its logit scale and soft cap.
        z0: raw logits (N, V) of the unsteered model.
        z1: the shift (N, V) of the raw logits by the steer at strength 1: ``Mix.logit_shift`` of the hidden states.
        tokens: the tokens (N,) that were drawn.
    """
    z0 = z0.float()
    return head.log_likelihood_of(z0 + z1, tokens) - head.log_likelihood_of(z0 - z1, tokens)


def vocabulary_evidence(head: Head, z0: Tensor, z1: Tensor) -> tuple[Tensor, Tensor]:
    """The evidence of every token of the vocabulary, and what a unit of strength brings.

    Args:
        head: the model's head, for its logit scale and soft cap.
        z0: raw logits (N, V) of the unsteered model.
        z1: the shift (N, V) of the raw logits by the steer at strength 1.

    Returns:
        The evidence (N, V) of each token; and (N,), half the difference of its mean between the strengths +1 and -1,
        ``½ Σ_y (p₊(y) - p₋(y)) (log p₊(y) - log p₋(y))`` (half of the Jeffreys divergence), in nats.
    """
    z0 = z0.float()
    up, down = (torch.log_softmax(head.post(z), -1) for z in (z0 + z1, z0 - z1))
    evidence = up - down
    return evidence, torch.linalg.vecdot(up.exp_().sub_(down.exp_()), evidence.nan_to_num()) / 2
