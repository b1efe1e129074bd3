"""The least-squares map of a contrast: from the hidden state to the shift that the instructions make of it.

At a token, the instructions of the two ends move the hidden state from ``h`` to ``h₊`` and to ``h₋``. The steer is the
linear map that does nearly the same at strengths 1 and -1::

    δ = (h₊ - h₋) / 2         (δ = h₊ - h with a single end)                              (d,)
    W = argmin E ‖δ - h W‖² = (E[h hᵀ] + λ I)⁻¹ E[h δᵀ]                                    (d, d)

So strength 1 is the effect of the instruction itself, as far as a linear map can give it, and there is no scale to
search. Inside the model it is the same with the stream after a layer in place of h. A linear layer that writes to the
stream gets the map from its own input to the shift of the stream after its layer (over ``stream_effect``). Of several
such places, each makes up for what those before it have left of the shift there.

``h`` is read twice: after the request without an instruction, and without any prompt, since a steer has to act in
conversations and in plain text. At the head, δ is taken net of the text's last tokens: its part in the span of their
output embeddings is left out. The hidden state carries the word just written, and instructed texts repeat the words of
their style, so that W would learn to say a word once more that was just said. Where the instructions change nothing, δ
is 0, and the map learns to leave the hidden state as it is.

A step along the gradient of the likelihood, which fits labels, does worse here: it moves nearly all hidden states in
one direction, to words that then repeat (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lmsteer.fitting.contrast.rows import ContrastRows
from lmsteer.model.fisher import FisherFactors
from lmsteer.util.linalg import Factorisation, ridge, usual_square

# λ in units of the mean square of an entry of h, outliers left out. At the head, results hardly depend on it from 0.003
# to 0.3 (docs/log.md).
DAMPING = 0.1
# Damping of the metric that the rank is chosen in: directions that the model's own text hardly visits weigh little.
_METRIC_DAMPING = 0.01


@dataclass
class ShiftRegression:
    """The moments of a regression of shifts on what a map reads, float64 on the CPU.

    Attributes:
        second_moment: Σ x xᵀ (n, n); x is the hidden state h (n = d), or the input of a linear layer.
        product: Σ x δᵀ (n, d).
        count: number of rows in the sums.
        squares: the mean square of each of them, in blocks.
    """

    second_moment: Tensor
    product: Tensor
    count: int = 0
    squares: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, n: int, d: int) -> ShiftRegression:
        """The moments of no rows, for maps from n to d numbers."""
        return cls(torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, d, dtype=torch.float64))

    def add(self, rows: ContrastRows, embeddings: Tensor | None) -> None:
        """Add rows, each with both of its states that no instruction stands before.

        Args:
            rows: the rows.
            embeddings: the output embeddings of the model (V, d), for rows at the head; None inside the model.
        """
        for read, shift in rows.pairs():
            wanted = (shift if embeddings is None else net_of_recent(shift, rows.recent, embeddings)).double()
            x = read.double()
            self.second_moment += x.T @ x
            self.product += x.T @ wanted
            self.count += len(x)
            self.squares.append((x**2).mean(1))

    def matrix(self) -> Tensor:
        """W (n, d), float64."""
        unit = usual_square(torch.cat(self.squares))
        return ridge(self.second_moment / self.count, self.product / self.count, DAMPING, unit)


def net_of_recent(shift: Tensor, recent: Tensor, embeddings: Tensor) -> Tensor:
    """Shifts (N, d) without their part in the span of the output embeddings of some tokens.

    A shift so cut leaves the logits of these tokens as they are.

    Args:
        shift: the shifts (N, d).
        recent: the tokens of each row (N, k); -1 for none.
        embeddings: the output embeddings of the model (V, d).
    """
    e = embeddings[recent.clamp(min=0).to(embeddings.device)].to(shift.device, torch.float64) * (recent >= 0)[..., None]
    gram = e @ e.mT
    # A token that stands there twice, or none at all, makes the matrix singular.
    least = 1e-9 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-30)
    gram = gram + least[:, None, None] * torch.eye(recent.shape[1], dtype=torch.float64)
    parts = torch.linalg.solve(gram, e @ shift.double()[..., None])
    return shift - (e.mT @ parts)[..., 0].to(shift.dtype)


def low_rank(w: Tensor, fisher: FisherFactors, rank: int | None = None) -> Factorisation:
    """The best A (n, r), B (d, r) for W ≈ A Bᵀ in the Fisher metric, and the share of W's spectrum that they hold.

    Args:
        w: W (n, d), float64.
        fisher: Fisher factors of the place that W acts at.
        rank: r; by default the least that holds 95 % of the spectrum.
    """
    dampings = _METRIC_DAMPING, _METRIC_DAMPING
    root_c, root_f = fisher.roots(*dampings)
    return fisher.factorised(root_c[:, None] * fisher.rotated(w) * root_f, *dampings, rank)
