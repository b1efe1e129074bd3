"""The LoRA's written-out gradients are those of its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.gist.lora import _SCALE, _Added

sizes = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(rows=sizes, columns=sizes, outputs=sizes, rank=sizes, seed=st.integers(0, 99))
def test_values_and_gradients_are_those_of_the_formula(rows, columns, outputs, rank, seed):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, rows, outputs), (2, rows, columns), (rank, columns), (outputs, rank)]
    y, x, a, b = (torch.randn(shape, generator=random, requires_grad=True) for shape in shapes)
    along = torch.randn(y.shape, generator=random)
    expected, found = y + _SCALE * (x @ a.T) @ b.T, _Added.apply(y, x, a, b)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, other orders of sums
    gradients = zip(*(torch.autograd.grad(out, [y, x, a, b], along) for out in (found, expected)), strict=True)
    for one, other in gradients:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_gets_its_own_precision_back(dtype):
    y, x = torch.randn(3, 4, dtype=dtype), torch.randn(3, 5, dtype=dtype, requires_grad=True)
    a, b = torch.randn(2, 5, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    found = _Added.apply(y, x, a, b)
    (of_x,) = torch.autograd.grad(found.sum(), x)
    assert (found.dtype, of_x.dtype) == (dtype, dtype)
    torch.testing.assert_close(found.float(), (y + _SCALE * (x.float() @ a.T) @ b.T).float(), rtol=2e-2, atol=5e-2)
