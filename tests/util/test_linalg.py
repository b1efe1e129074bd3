"""Ridge regression solves its equation, factorisations are the best of their rank, and sums of products are exact."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.util import linalg
from lmsteer.util.linalg import (
    chain_product,
    damped,
    factorise,
    factorise_product,
    factorise_to_share,
    ridge,
    usual_square,
    weighted_product,
)
from pretended import FIRST, pretended_devices


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
@given(st.integers(0, 1000), st.floats(1e-4, 10), st.sampled_from([1e-30, 1.0, 1e30]))
def test_wide_ridge_is_refined_to_float64(seed, damping, size):
    drawn = torch.Generator().manual_seed(seed)
    root = torch.randn(40, 40, generator=drawn, dtype=torch.float64)
    m, v = root @ root.T, size * torch.randn(40, 3, generator=drawn, dtype=torch.float64)
    exact = ridge(m, v, damping)
    in_float64 = mock.patch.object(torch.linalg, "cholesky", side_effect=AssertionError("in float64"))
    with mock.patch.object(linalg, "_WIDE", 8), in_float64:
        found = ridge(m, v, damping)
    # The residual is refined to 1e-12; the condition number is at most 40 / 1e-4.
    assert float((found - exact).norm()) <= 4e-7 * float(exact.norm())
    assert float((damped(m, damping) @ found - v).norm()) <= 1e-12 * float(v.norm())


def test_wide_ridge_beyond_float32_is_solved_in_float64(monkeypatch):
    monkeypatch.setattr(linalg, "_WIDE", 2)
    m, v = torch.tensor([1e12, 1.0, 1.0], dtype=torch.float64).diag(), torch.ones(3, dtype=torch.float64)
    m[1, 2] = m[2, 1] = 1 - 1e-9  # float32 rounds it to a matrix that is not positive definite
    torch.testing.assert_close(m @ ridge(m, v, 0.0), v, rtol=1e-6, atol=1e-6)  # condition number 2e9 in float64
    assert float(ridge(m, 0 * v, 0.0).norm()) == 0


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


def spectrum_of_natural_gradients(size: int) -> torch.Tensor:
    """A matrix whose spectrum falls off slowly, as those of fits do."""
    drawn = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, size, generator=drawn).double())[0] for _ in range(2))
    return (u * torch.arange(1, size + 1) ** -0.8) @ v


@pytest.mark.parametrize("rank", [None, 5])
def test_the_leading_part_of_a_wide_matrix_is_that_of_the_whole(monkeypatch, rank):
    w = spectrum_of_natural_gradients(300)
    whole = factorise_to_share(w, rank)
    monkeypatch.setattr(linalg, "_WIDE", 64)
    monkeypatch.setattr(linalg, "_FIRST_SIZE", 16)
    svd, sizes = torch.linalg.svd, []
    with mock.patch.object(torch.linalg, "svd", lambda m, **options: sizes.append(min(m.shape)) or svd(m, **options)):
        leading = factorise_to_share(w, rank)
    assert max(sizes) < 300
    assert leading.a.shape == whole.a.shape
    # What subspace iteration leaves of the columns after the first ones, where the spectrum falls off so slowly.
    assert leading.share == pytest.approx(whole.share, abs=2e-3)
    gap = (leading.a @ leading.b.T - whole.a @ whole.b.T).norm() / w.norm()
    assert gap < 0.03
    again = factorise_to_share(w, rank)
    assert torch.equal(again.a, leading.a)


def test_a_rank_beyond_the_matrix_is_that_of_the_matrix():
    w = torch.eye(3).double()
    assert factorise_to_share(w, 7).a.shape == (3, 3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000))
def test_factors_of_a_product_are_those_of_its_matrix(rank, seed):
    drawn = torch.Generator().manual_seed(seed)
    a, b = torch.randn(6, rank, generator=drawn), torch.randn(7, rank, generator=drawn)
    ours, theirs = factorise_product(a, b), factorise((a @ b.T).double())
    torch.testing.assert_close(ours[0] @ ours[1].T, a @ b.T, rtol=1e-4, atol=1e-4)  # float32 factors
    size = min(rank, 6)
    torch.testing.assert_close(ours[2][:size], theirs[2][:size], rtol=1e-4, atol=1e-4)


def test_sums_of_products_are_in_float64_on_the_cpu_and_in_blocks_of_float32_elsewhere(monkeypatch):
    monkeypatch.setattr(linalg, "_ROWS", 16)
    drawn = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*shape, generator=drawn) for shape in ((100, 5), (100, 7), (100,)))
    expected = (x.double() * w[:, None]).T @ y.double()
    torch.testing.assert_close(weighted_product(x, y, w), expected, rtol=1e-12, atol=1e-12)  # float64
    with pretended_devices():
        found = weighted_product(x.to(FIRST), y.to(FIRST), w)
        assert (found.device, found.dtype) == (FIRST, torch.float64)
        gap = found.cpu() - expected
    # Each of the seven blocks is rounded to float32: 6e-8 of its own size, some units large.
    assert 0 < gap.abs().max() < 3e-6


def test_wide_products_are_in_float32(monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    a, w, b = (torch.randn(12, 12, generator=drawn, dtype=torch.float64) for _ in range(3))
    exact = a @ w @ b
    torch.testing.assert_close(chain_product(a, w, b), exact, rtol=1e-12, atol=1e-12)  # float64
    sums = weighted_product(a, w)
    monkeypatch.setattr(linalg, "_WIDE", 8)
    found = chain_product(a, w, b)
    assert found.dtype == torch.float64
    # float32: 6e-8 of what is added up, some tens large.
    assert 0 < (found - exact).abs().max() < 1e-4
    assert 0 < (weighted_product(a, w) - sums).abs().max() < 1e-5
