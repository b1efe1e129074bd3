"""The mathematics of steers.

LM-Steer (Han et al., ACL 2024, eq. 2) maps each output word embedding ``e_v`` to ``(I + s W) e_v``. Since
``h (I + s W) Eᵀ = (h + s h A Bᵀ) Eᵀ`` with ``W = A Bᵀ``, the head can stay as it is while the hidden state is moved.
With K steers of strengths ``s`` (K,), per row of the batch::

    multiply   h' = h + Σ_k s_k (h A_k) B_kᵀ        A_k, B_k (d, r_k)
    add        h' = h + Σ_k s_k a_k                 a_k (d,)
    offset     z' = h' Eᵀ + Σ_k s_k o_k             o_k (V,)

The sums over steers are single matrix products: the factors stand side by side, and each strength is repeated over the
ranks of its steer. Products are taken in float32 whatever the model's dtype, and a strength of 0 adds an exact 0.

The sum ``h + ...`` has the model's dtype. In bfloat16 (8 bits) it rounds away part of a small effect: with the shipped
steers the shift of the logits is off by 4 to 16 % of its size at strength 1, 14 to 49 % at 0.25 and some 60 % at 0.1,
though on average over tokens it is right within 5 % down to 0.25. Load the model in float32 for strengths far below 1.
"""

from __future__ import annotations

from torch import Tensor

from lmsteer.errors import SteerError


def multiply(h: Tensor, a: Tensor, b: Tensor, strengths: Tensor, onto: Tensor | None = None) -> Tensor:
    """Form multiply: ``h + ((h A) ∘ s) Bᵀ`` for ``h`` (.., d), ``A``, ``B`` (d, R), ``s`` broadcastable to (.., R).

    The effect is added to ``onto`` (.., d) where that is given, in place of ``h``.
    """
    return (h if onto is None else onto) + (read(h, a, strengths) @ b.T).to(h.dtype)


def read(h: Tensor, a: Tensor, strengths: Tensor) -> Tensor:
    """The coordinates ``(h A) ∘ s`` (.., R) in which a steer of form multiply moves ``h`` (.., d)."""
    return ((h.float() @ a) * strengths).masked_fill(strengths == 0, 0)  # 0 times infinity would be nan


def shift(x: Tensor, vectors: Tensor, strengths: Tensor) -> Tensor:
    """Forms add and offset: ``x + s v`` for ``x`` (.., n), ``v`` (K, n), ``s`` broadcastable to (.., K)."""
    return x + (strengths @ vectors).to(x.dtype)


def broadcast_rows(strengths: Tensor, rows: int) -> Tensor:
    """Repeat strengths (B, K) for the rows of a forward pass, of which there may be several for each of the B.

    transformers' ``generate`` repeats the row of each prompt for its beams and samples, side by side; so do strengths.

    Raises:
        SteerError: the number of rows is not a multiple of B.
    """
    count = strengths.shape[0]
    if count in (1, rows):
        return strengths
    if rows % count:
        raise SteerError(
            f"strengths were given for {count} rows, but the batch has {rows}: give one strength, or one a row."
        )
    return strengths.repeat_interleave(rows // count, dim=0)
