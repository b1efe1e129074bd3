"""The mathematics of steers, and the hook that applies it in front of a model's head.

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

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmsteer.errors import SteerError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from lmsteer.steers.mix import Mix


def multiply(h: Tensor, a: Tensor, b: Tensor, strengths: Tensor) -> Tensor:
    """``h + ((h A) ∘ s) Bᵀ`` for ``h`` (.., d), ``A``, ``B`` (d, R), ``s`` broadcastable to (.., R)."""
    return h + (((h.float() @ a) * strengths) @ b.T).to(h.dtype)


def shift(x: Tensor, vectors: Tensor, strengths: Tensor) -> Tensor:
    """``x + s v`` for ``x`` (.., n), ``v`` (K, n), ``s`` broadcastable to (.., K): forms add and offset."""
    return x + (strengths @ vectors).to(x.dtype)


class SteerHandle:
    """A mix at work in front of a model's head: a context manager, removable, its strengths movable.

    Attributes:
        mix: the steers and strengths that act from the next forward pass on; assign another to turn the dial.
        calls: how often the hook has acted. Zero after a forward pass means that the model bypassed its head.
    """

    def __init__(self, head: torch.nn.Module, mix: Mix) -> None:
        self.mix = mix
        self.calls = 0
        self._hooks: list[RemovableHandle] = [
            head.register_forward_pre_hook(self._steer_hidden_states),
            head.register_forward_hook(self._steer_logits),
        ]

    def remove(self) -> None:
        """Take the steers off; the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _steer_hidden_states(self, _: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.calls += 1
        return (self.mix.steer_hidden_states(args[0]), *args[1:])

    def _steer_logits(self, _: torch.nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        return self.mix.steer_logits(logits)


def attach(model: PreTrainedModel, mix: Mix) -> SteerHandle:
    """Put a mix in front of the head of any causal LM of transformers.

    Raises:
        SteerError: the model has no output embedding, or the mix is of another hidden size or vocabulary.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise SteerError(f"{type(model).__name__} has no output embedding: there is nothing to steer.")
    vocabulary, hidden_size = head.weight.shape
    mix.check_shape(hidden_size, vocabulary)
    return SteerHandle(head, mix)


def rows_of(strengths: Tensor, rows: int) -> Tensor:
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
