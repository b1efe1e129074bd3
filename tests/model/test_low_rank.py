"""The written-out gradients of low-rank updates are those of their formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.model.low_rank import add_lora

sizes = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(rows=sizes, columns=sizes, outputs=sizes, rank=sizes, seed=st.integers(0, 99), by_row=st.booleans())
def test_values_and_gradients_are_those_of_the_formula(rows, columns, outputs, rank, seed, by_row):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, rows, outputs), (2, rows, columns), (rank, columns), (outputs, rank)]
    y, x, a, b = (torch.randn(shape, generator=random, requires_grad=True) for shape in shapes)
    scale = torch.tensor([0.5, -3.0]) if by_row else 2.0
    along = torch.randn(y.shape, generator=random)
    spread = scale[:, None, None] if by_row else scale
    expected, found = y + spread * ((x @ a.T) @ b.T), add_lora(y, x, a, b, scale)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, other orders of sums
    gradients = zip(*(torch.autograd.grad(out, [y, x, a, b], along) for out in (found, expected)), strict=True)
    for one, other in gradients:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_scale_of_zero_leaves_a_row_bit_for_bit():
    random = torch.Generator().manual_seed(0)
    y, x, a, b = (torch.randn(s, generator=random) for s in ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2)))
    found = add_lora(y, x, a, b, torch.tensor([0.0, 1.0]))
    assert torch.equal(found[0], y[0])
    assert not torch.allclose(found[1], y[1], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_gets_its_own_precision_back(dtype):
    y, x = torch.randn(3, 4, dtype=dtype), torch.randn(3, 5, dtype=dtype, requires_grad=True)
    a, b = torch.randn(2, 5, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    found = add_lora(y, x, a, b, 2.0)
    (of_x,) = torch.autograd.grad(found.sum(), x)
    assert (found.dtype, of_x.dtype) == (dtype, dtype)
    torch.testing.assert_close(found.float(), (y + 2 * (x.float() @ a.T) @ b.T).float(), rtol=2e-2, atol=5e-2)
