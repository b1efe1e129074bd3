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


def credited_gradient(h: Tensor, r: Tensor, text: Tensor, w: Tensor) -> Tensor:
    """``E[(q - q̄) h rᵀ]`` (d, d), in float64: the gradient of the reading ahead.

    Args:
        h: hidden states (N, d), text by text in reading order.
        r: residuals (N, d) of the tokens that follow them.
        text: which text each is of (N,).
        w: the reader (d,).
    """
    q, seen = credit(h, text, w)
    count = max(int(seen.sum()), 1)
    weight = (q - q[seen].sum() / count) * seen / count
    return weighted_product(h, r, weight)


def weighted_product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """``Σ w x yᵀ`` (d, d) over rows of x, y (N, d) with weights (N,), in float64, some rows at a time."""
    total = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for some_x, some_y, weights in zip(x.split(_PIECE), y.split(_PIECE), weight.split(_PIECE), strict=True):
        total += (some_x.double() * weights[:, None]).T @ some_y.double()
    return total
