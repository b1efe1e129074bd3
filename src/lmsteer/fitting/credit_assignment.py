"""Credit assignment: how much each token of a text contributes to the text's label.

A label belongs to a whole text. As the label of each token it is right on average, and noisy for a single token. A
linear probe ``w``, the regression of the label on the hidden state at the end of a text, predicts the label at every
place of a text. The credit of a token is how much the prediction rises after it::

    q_t = mean of w · h_{t+1} .. w · h_{t+k}  -  w · h_t                                          (k = 8)

``E[q h rᵀ]`` has the form of a policy gradient of the prediction ahead, with the prediction so far as its baseline, on
the tokens of the texts. The label says which kind of text a token comes from; its credit says how it changes the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.util.linalg import add_product, in_float64

_AHEAD = 8
# Rows that are converted to float64 at a time.
_ROWS = 4096


def credit(h: Tensor, text: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The credit (N,) of the tokens that follow hidden states, and whether there is a prediction after them (N,).

    Both are on the CPU.

    Args:
        h: hidden states (N, d), text by text in reading order.
        text: index of the text that each belongs to (N,); neighbours with one index belong to one text.
        w: the probe (d,).
    """
    prediction = torch.cat([in_float64(rows, w.device) @ w.double() for rows in h.split(_ROWS)]).cpu()
    ahead, seen = torch.zeros_like(prediction), torch.zeros_like(prediction)
    for distance in range(1, min(_AHEAD, len(h) - 1) + 1):
        same = text[distance:] == text[:-distance]
        ahead[:-distance] += prediction[distance:] * same
        seen[:-distance] += same
    return ahead / seen.clamp(min=1) - prediction, seen > 0


def credited_gradient(blocks: Sequence[tuple[Tensor, Tensor, Tensor]], w: Tensor) -> Tensor:
    """``E[(q - q̄) h rᵀ]`` (d, d), in float64, on the device of the probe: the gradient of the prediction ahead.

    Args:
        blocks: blocks of whole texts: hidden states h (N, d), text by text in reading order, residuals r (N, d) of the
            tokens that follow them, and the index of the text that each belongs to (N,).
        w: the probe (d,).
    """
    credits = [credit(h, text, w) for h, _, text in blocks]
    count = max(sum(int(seen.sum()) for _, seen in credits), 1)
    mean = sum((float(q[seen].sum()) for q, seen in credits), 0.0) / count
    gradient = torch.zeros(len(w), len(w), dtype=torch.float64, device=w.device)
    for (h, r, _), (q, seen) in zip(blocks, credits, strict=True):
        add_product(gradient, h, r, (q - mean) * seen / count)
    return gradient
