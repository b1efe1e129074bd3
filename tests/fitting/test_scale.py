"""The unit of strength is looked for where held-out texts are likeliest."""

from __future__ import annotations

import pytest
import torch

from lmsteer.fitting.rows import Rows, encode_whole, gather
from lmsteer.fitting.scale import best_scale, gains_at, largest_scale
from tiny import styled


@pytest.fixture(scope="module")
def rows(llama) -> Rows:
    texts = styled(40)
    return Rows.join(list(gather(llama, texts, encode_whole(llama, texts))))


def direction(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    gradient = (rows.h * rows.label[:, None]).double().T @ rows.r.double()
    return gradient, torch.eye(len(gradient), dtype=torch.float64)


def test_gains_are_differences_of_log_likelihood(llama, rows):
    moved = torch.randn(rows.h.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    steered = llama.head.log_likelihood(rows.h + 2 * rows.label[:, None] * moved, rows.target)
    # float32, the shift added before the head and after it.
    torch.testing.assert_close(
        gains_at(llama.head, rows, moved, [0.0, 2.0])[1], steered - rows.log_p, atol=1e-4, rtol=0
    )


def test_the_best_scale_is_the_best_of_its_neighbours(llama, rows):
    a, b = direction(rows)
    scale, gains = best_scale(llama.head, rows, a, b)
    gain = float(gains.mean())
    moved = ((rows.h.double() @ a) @ b.T).float()
    around = gains_at(llama.head, rows, moved, [scale * f for f in (0.25, 1.0, 4.0)]).mean(1)
    assert gain > 0
    assert int(around.argmax()) == 1
    assert float(around[1]) == pytest.approx(gain, rel=1e-4)


def test_the_largest_scale_keeps_nine_tenths_of_the_gain(llama, rows):
    a, b = direction(rows)
    (best, gains), largest = best_scale(llama.head, rows, a, b), largest_scale(llama.head, rows, a, b)
    gain = float(gains.mean())
    moved = ((rows.h.double() @ a) @ b.T).float()
    kept, beyond = gains_at(llama.head, rows, moved, [largest, 1.5 * largest]).mean(1).tolist()
    assert largest >= best
    assert kept >= 0.9 * gain > beyond
