"""Linear algebra that several packages need: damping, ridge regression, factorisations with fixed signs, their rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.util.devices import float64_device, is_host
from lmsteer.util.random_state import seeded

# A row that is so many times as long as the median one, squared, is an outlier.
_OUTLIER = 16.0
# Matrices up to this size are multiplied and decomposed in float64, which takes a second or less. Larger ones are
# multiplied and factored in float32, twice as fast; what is solved with the factors is refined in float64 (Higham,
# 2002, chapter 12). Of their singular values only the leading ones are computed, by subspace iteration (Halko,
# Martinsson and Tropp, 2011), whose cost grows with d² in place of d³.
_WIDE = 1024
_FIRST_SIZE, _ITERATIONS = 256, 4
# Steps of refinement, and the residual, relative to the right-hand side, at which it ends.
_REFINEMENTS, _REFINED = 20, 1e-12
# The part is some columns larger than the rank that is asked for: its last columns are not converged.
_OVERSAMPLING = 1.25


# Rows that are multiplied at a time.
_ROWS = 4096


def in_float64(x: Tensor, device: torch.device) -> Tensor:
    """A tensor in float64 on a device: first moved, then converted, since a device it comes from may lack float64."""
    return x.to(device).double()


class Factorisation(NamedTuple):
    """``W ≈ A Bᵀ``, the best approximation of its rank.

    Attributes:
        a: A = U √S (n, r), in the dtype of W.
        b: B = V √S (m, r).
        share: the share of the sum of all squared singular values of W that these r hold.
    """

    a: Tensor
    b: Tensor
    share: float


def add_product(total: Tensor, x: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
    """Add ``Σ w x yᵀ`` to a sum (n, m) in float64, some rows at a time, on the device of the sum.

    On a CPU the products are computed in float64, too, which takes no time beside a forward pass, unless they are wide
    (above 1,024). Accelerators are up to 64 times slower in float64 than in float32. So wide ones, and all those on
    accelerators, are multiplied in float32, block of rows by block, and only the blocks are added up in float64: the
    error is that of one block, 1e-6 of its size (unless torch was set to TF32).

    Args:
        total: the sum (n, m), float64, which is changed.
        x: rows (N, n).
        y: rows (N, m).
        weight: weights of the rows (N,), on any device; 1 by default.
    """
    dtype = torch.float64 if is_host(total.device) and max(total.shape) <= _WIDE else torch.float32
    for start in range(0, len(x), _ROWS):
        some = slice(start, start + _ROWS)
        some_x, some_y = (rows[some].to(total.device).to(dtype) for rows in (x, y))
        total += (some_x if weight is None else some_x * weight[some].to(some_x)[:, None]).T @ some_y


def chain_product(*matrices: Tensor) -> Tensor:
    """The product of some matrices, in float64; wide ones (above 1,024) are multiplied in float32, to 1e-6."""
    if max(max(each.shape) for each in matrices) <= _WIDE:
        return torch.linalg.multi_dot(matrices)
    return torch.linalg.multi_dot([each.float() for each in matrices]).double()


def weighted_product(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """``Σ w x yᵀ`` (n, m) over rows of x (N, n) and y (N, m) with weights (N,), in float64, on the device of x."""
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=float64_device(x.device))
    add_product(total, x, y, weight)
    return total


def damped(matrix: Tensor, damping: float, unit: float | None = None) -> Tensor:
    """Add a multiple of the identity: ``M + λ m I`` (d, d), where m is the mean of M's diagonal.

    Args:
        matrix: M (d, d).
        damping: λ, relative to the mean diagonal, so that it does not depend on M's scale.
        unit: m, if it is another number.
    """
    m = matrix.diagonal().mean() if unit is None else unit
    return matrix + damping * m * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def ridge(second_moment: Tensor, product: Tensor, damping: float, unit: float | None = None) -> Tensor:
    """Ridge regression from moments: ``(M + λ m I)⁻¹ v``, (d,) or (d, r), where m is the mean of M's diagonal.

    Args:
        second_moment: M = E[x xᵀ] (d, d) of the predictors x.
        product: v = E[x y] (d,) or E[x yᵀ] (d, r), their mean product with the targets y.
        damping: λ, relative to the mean diagonal of M.
        unit: m, if it is another number.
    """
    matrix, right = damped(second_moment, damping, unit), product.reshape(len(product), -1)
    refined = _refined_solution(matrix, right) if len(matrix) > _WIDE else None
    if refined is None:
        refined = torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
    return refined.reshape(product.shape)


def _refined_solution(matrix: Tensor, right: Tensor) -> Tensor | None:
    """M⁻¹ v (d, r) for a positive definite M (d, d), factored in float32; None where float32 is not enough for that."""
    factor, failed = torch.linalg.cholesky_ex(matrix.float())
    solution, rest = torch.zeros_like(right), right
    size = float(right.norm())
    if failed or not size:
        return None
    for _ in range(_REFINEMENTS):
        length = rest.norm()  # float32 has a smaller range than float64
        solution = solution + torch.cholesky_solve((rest / length).float(), factor) * length
        rest = right - matrix @ solution
        if float(rest.norm()) <= _REFINED * size:
            return solution
    return None


def usual_square(squares: Tensor) -> float:
    """The mean of the mean squares of rows (N,), without those of outliers.

    It is the unit of damping inside a model. There the state of the first token, to which later ones attend when
    nothing else is of use, can be a hundred times as long as the others (an attention sink; Xiao et al., 2024). It
    would make the mean of the diagonal of E[x xᵀ] hundreds of times what it is for all other rows.
    """
    return float(squares[squares <= _OUTLIER * squares.median()].double().mean())


def held_rank(
    spectrum: Tensor, rank: int | None = None, share: float = 0.95, total: float | None = None
) -> tuple[int, float]:
    """A rank, and the share of a spectrum that it holds: the sum of its first squares over the sum of all.

    Args:
        spectrum: singular values (d,), descending; all of them, or the first.
        rank: the rank, at most that of the spectrum; by default the least that holds ``share``.
        share: see ``rank``.
        total: the sum of all squares; by default that of ``spectrum``.
    """
    squares = spectrum.double() ** 2
    shares = squares.cumsum(0) / (squares.sum() if total is None else total)
    rank = min(rank or int((shares < share).sum()) + 1, len(spectrum))
    return rank, float(shares[rank - 1])


def factorise(matrix: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Factor W into A = U √S and B = V √S (d, r), so that A Bᵀ is the best approximation of rank r (Eckart-Young).

    The signs are fixed (the largest entry of each column of A is positive), so that a rerun gives the same numbers.

    Args:
        matrix: W (d, d).
        rank: r; d by default.

    Returns:
        A and B, float32, and all d singular values of W, descending, float32.
    """
    u, spectrum, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b = _signed(u, spectrum, vt.T)
    return a[:, :rank].float().contiguous(), b[:, :rank].float().contiguous(), spectrum.float()


def factorise_to_share(matrix: Tensor, rank: int | None = None, share: float = 0.95) -> Factorisation:
    """Factor W into A Bᵀ of a rank, or of the least rank that holds a share of its spectrum.

    Of a wide matrix only the leading part is decomposed; the share is that of the whole spectrum all the same, since
    the sum of all squared singular values is that of all squared entries.

    Args:
        matrix: W (n, m), float64.
        rank: the rank; by default the least that holds ``share``.
        share: see ``rank``.
    """
    u, spectrum, v = _leading(matrix, rank, share)
    rank, held = held_rank(spectrum, rank, share, total=float((matrix**2).sum()))
    a, b = _signed(u[:, :rank], spectrum[:rank], v[:, :rank])
    return Factorisation(a, b, held)


def factorise_product(a: Tensor, b: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """``factorise`` of W = A Bᵀ for A (n, r), B (m, r), without W: by two QR decompositions (float64 inside)."""
    u, spectrum, v = svd_of_product(a.double(), b.double())
    a, b = _signed(u, spectrum, v)
    return a[:, :rank].float().contiguous(), b[:, :rank].float().contiguous(), spectrum.float()


def svd_of_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (n, r), S (r,), V (m, r) of A Bᵀ for A (n, r), B (m, r); where r is more than n or m, that many."""
    (q_a, r_a), (q_b, r_b) = (torch.linalg.qr(factor) for factor in (a, b))
    u, spectrum, vt = torch.linalg.svd(r_a @ r_b.T, full_matrices=False)
    return q_a @ u, spectrum, q_b @ vt.T


def _signed(u: Tensor, spectrum: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """U √S and V √S, with the signs at which the largest entry of each column of U is positive."""
    root = spectrum.sqrt() * u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return u * root, v * root


def _leading(matrix: Tensor, rank: int | None, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """U (n, k), S (k,), V (m, k) of the leading part of a matrix that holds a rank, or a share; all of a small one."""
    full = min(matrix.shape)
    size = _FIRST_SIZE if rank is None else int(rank * _OVERSAMPLING) + 8
    total = float((matrix**2).sum())
    while full > _WIDE and size < full:
        with seeded(matrix.device, 0):
            u, spectrum, v = (part.double() for part in torch.svd_lowrank(matrix.float(), size, _ITERATIONS))
        if rank or float((spectrum[: int(size / _OVERSAMPLING)] ** 2).sum()) >= share * total:
            return u, spectrum, v
        size *= 2
    u, spectrum, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u, spectrum, vt.T
