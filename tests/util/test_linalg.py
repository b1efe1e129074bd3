"""Ridge regression solves its equation, and a factorisation is the best of its rank."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.util.linalg import damped, factorise, ridge, usual_square


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_ridge_solves_its_equation(seed, damping):
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)).double()
    m, v = root @ root.T, torch.arange(5).double()
    w = ridge(m, v, damping)
    # float64; the condition number is at most (5 + damping) / damping.
    torch.testing.assert_close(m @ w + damping * m.diagonal().mean() * w, v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(damped(m, damping) @ w, v, rtol=1e-9, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000))
def test_factors_of_full_rank_give_the_matrix_back_and_truncation_is_the_nearest(rank, seed):
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    a, b, spectrum = factorise(w)
    torch.testing.assert_close(a @ b.T, w, rtol=1e-5, atol=1e-5)  # float64 inside, float32 out
    a, b, _ = factorise(w, rank)
    assert a.shape == b.shape == (6, rank)
    error = (a @ b.T - w).square().sum()
    torch.testing.assert_close(error, spectrum[rank:].square().sum(), rtol=1e-3, atol=1e-6)  # Eckart-Young


def test_the_signs_of_factors_are_fixed():
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    a, _, _ = factorise(w)
    assert (a.gather(0, a.abs().argmax(0, keepdim=True)) > 0).all()


def test_the_usual_square_leaves_outliers_out():
    squares = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0e6])
    assert usual_square(squares) == 2.0
    assert usual_square(squares[:4]) == float(squares[:4].mean())
