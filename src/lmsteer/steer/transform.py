"""The mathematics of steers.

LM-Steer (Han et al., ACL 2024, eq. 2) turns each output word embedding ``e_v`` into ``(I + s W) e_v``.
As ``h (I + s W) Eᵀ = (h + s h A Bᵀ) Eᵀ`` with ``W = A Bᵀ``, the head may stay as it is and the hidden state
moves instead. With K steers of strengths ``s`` (K,), per row of the batch::

    multiply   h' = h + Σ_k s_k (h A_k) B_kᵀ        A_k, B_k (d, r_k)
    add        h' = h + Σ_k s_k a_k                 a_k (d,)
    offset     z' = h' Eᵀ + Σ_k s_k o_k             o_k (V,)

The sums over steers are single matrix products: factors stand side by side, strengths are spread over ranks.
Products are taken in float32 whatever the model's dtype, so that a strength of 0 adds an exact 0.
"""

from __future__ import annotations

from torch import Tensor

from lmsteer.errors import SteerError


def multiply(h: Tensor, a: Tensor, b: Tensor, strengths: Tensor, onto: Tensor | None = None) -> Tensor:
    """``h + ((h A) ∘ s) Bᵀ`` for ``h`` (.., d), ``A``, ``B`` (d, R), ``s`` broadcastable to (.., R).

    The effect is added to ``onto`` (.., d) where that is given, in place of ``h``.
    """
    return (h if onto is None else onto) + (((h.float() @ a) * strengths) @ b.T).to(h.dtype)


def shift(x: Tensor, vectors: Tensor, strengths: Tensor) -> Tensor:
    """``x + s v`` for ``x`` (.., n), ``v`` (K, n), ``s`` broadcastable to (.., K): forms add and offset."""
    return x + (strengths @ vectors).to(x.dtype)


def broadcast_rows(strengths: Tensor, rows: int) -> Tensor:
    """Spread strengths (B, K) over the rows of a forward pass: one for all, or blocks of beams or samples.

    ``generate`` repeats each prompt's row for its beams and samples, side by side; so do strengths.

    Raises:
        SteerError: the batch has a number of rows that the strengths cannot be spread over.
    """
    given = strengths.shape[0]
    if given in (1, rows):
        return strengths
    if rows % given:
        raise SteerError(
            f"strengths were given for {given} rows, but the batch has {rows}: give one strength, or one a row."
        )
    return strengths.repeat_interleave(rows // given, dim=0)
