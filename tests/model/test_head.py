"""The head: what two predictions differ by, as a gradient."""

from __future__ import annotations

import pytest
import torch

from tiny import tiny_lm


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_contrasts_are_the_gradient_of_the_difference_of_expected_likelihoods(family):
    head = tiny_lm(family).head
    g = torch.Generator().manual_seed(0)
    h, plus, minus = (torch.randn(5, 32, generator=g) for _ in range(3))
    at = h.clone().requires_grad_()
    p, q = (torch.softmax(head.logits(x), -1) for x in (plus, minus))
    ((p - q) * torch.log_softmax(head.logits(at), -1)).sum().backward()
    gradients, divergence = head.contrasts(h, plus, minus)
    # float32 sums over some 260 tokens
    torch.testing.assert_close(gradients, at.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(divergence, (p * (p.log() - q.log())).sum(-1), atol=1e-5, rtol=1e-4)
