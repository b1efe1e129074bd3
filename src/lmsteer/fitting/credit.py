"""Credit: which tokens of a text bring about what it says.

A label belongs to a whole text; that every token of it gets the same label is right on the whole and noise in
each. But hidden states can be read: ``w · h``, a regression of the label on the hidden state at the
end of a text, is a running estimate of the label anywhere in it. So a token's credit is how much the reading rises
after it::

    q_t = mean of w · h_{t+1} .. w · h_{t+k}  -  w · h_t                                          (k = 8)

and ``E[q h rᵀ]`` has the form of a policy gradient of the reading ahead, with the reading so far as its baseline, on
the tokens of the texts. Where the label says what kind of text a token is from, credit says what the token does to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_AHEAD = 8
# Rows that are widened to float64 at a time.
_PIECE = 4096


def credit(h: Tensor, text: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Credit (N,) of the tokens that follow hidden states, and whether there is something after them to read (N,).

    Args:
        h: hidden states (N, d), text by text in reading order.
        text: which text each is of (N,); neighbours of one value are of one text.
        w: the reader (d,).
    """
    reading = torch.cat([rows.to(w.dtype) @ w for rows in h.split(_PIECE)])
    ahead, seen = torch.zeros_like(reading), torch.zeros_like(reading)
    for distance in range(1, min(_AHEAD, len(h) - 1) + 1):
        same = text[distance:] == text[:-distance]
        ahead[:-distance] += reading[distance:] * same
        seen[:-distance] += same
    return ahead / seen.clamp(min=1) - reading, seen > 0


def credited_gradient(blocks: Sequence[tuple[Tensor, Tensor, Tensor]], w: Tensor) -> Tensor:
    """``E[(q - q̄) h rᵀ]`` (d, d), in float64: the gradient of the reading ahead.

    Args:
        blocks: of whole texts: their hidden states h (N, d), text by text in reading order, residuals r (N, d) of the
            tokens that follow them, and which text each is of (N,).
        w: the reader (d,).
    """
    credits = [credit(h, text, w) for h, _, text in blocks]
    count = max(sum(int(seen.sum()) for _, seen in credits), 1)
    mean = sum((float(q[seen].sum()) for q, seen in credits), 0.0) / count
    gradient = torch.zeros(len(w), len(w), dtype=torch.float64)
    for (h, r, _), (q, seen) in zip(blocks, credits, strict=True):
        gradient += weighted_product(h, r, (q - mean) * seen / count)
    return gradient


def weighted_product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """``Σ w x yᵀ`` (d, d) over rows of x, y (N, d) with weights (N,), in float64, some rows at a time."""
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for some_x, some_y, weights in zip(x.split(_PIECE), y.split(_PIECE), weight.split(_PIECE), strict=True):
        total += (some_x.double() * weights[:, None]).T @ some_y.double()
    return total
