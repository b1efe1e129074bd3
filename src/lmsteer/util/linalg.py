"""Linear algebra that several packages need: damping, ridge regression, a factorisation with fixed signs, its rank."""

from __future__ import annotations

import torch
from torch import Tensor

# A row that is so many times as long as the median one, squared, is an outlier.
_OUTLIER = 16.0


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
    return torch.linalg.solve(damped(second_moment, damping, unit), product)


def usual_square(squares: Tensor) -> float:
    """The mean of the mean squares of rows (N,), without those of outliers.

    It is the unit of damping inside a model. There the state of the first token, to which later ones attend when
    nothing else is of use, can be a hundred times as long as the others (an attention sink; Xiao et al., 2024). It
    would make the mean of the diagonal of E[x xᵀ] hundreds of times what it is for all other rows.
    """
    return float(squares[squares <= _OUTLIER * squares.median()].double().mean())


def held_rank(spectrum: Tensor, rank: int | None = None, share: float = 0.95) -> tuple[int, float]:
    """A rank, and the share of a spectrum that it holds: the sum of its first squares over the sum of all.

    Args:
        spectrum: singular values (d,), descending.
        rank: the rank; by default the least that holds ``share``.
        share: see ``rank``.
    """
    squares = spectrum.double() ** 2
    shares = squares.cumsum(0) / squares.sum()
    rank = rank or int((shares < share).sum()) + 1
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
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    root = spectrum.sqrt() * signs
    a, b = u * root, vt.T * root
    return a[:, :rank].float().contiguous(), b[:, :rank].float().contiguous(), spectrum.float()
