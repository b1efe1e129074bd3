"""The unit of strength is chosen where held-out texts are likeliest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.fitting.scale import SHORTEST, _crossing, best_scales, gains_at, largest_scale, long_enough
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from tiny import styled


@pytest.fixture(scope="module")
def rows(llama) -> LabelledRows:
    texts = styled(40)
    return LabelledRows.join(list(gather_rows(llama, texts, encode_labelled(llama, texts))))


def direction(rows: LabelledRows) -> tuple[torch.Tensor, torch.Tensor]:
    gradient = (rows.h * rows.label[:, None]).double().T @ rows.r.double()
    return gradient, torch.eye(len(gradient), dtype=torch.float64)


def test_gains_are_differences_of_log_likelihood(llama, rows):
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(llama.hidden_size, 3, generator=random) * 0.2 for _ in range(2))
    steered = llama.head.log_likelihood(rows.h + 2 * rows.label[:, None] * (rows.h @ a @ b.T), rows.target)
    # float32, the shift added before the head and after it.
    torch.testing.assert_close(
        gains_at(llama.head, rows, [(a, b)], [0.0, 2.0])[0, 1], steered - rows.log_p, atol=1e-4, rtol=0
    )


def test_the_best_scale_is_the_best_of_its_neighbours(llama, rows):
    a, b = direction(rows)
    ((scale, gains),) = best_scales(llama.head, rows, [(a, b)])
    gain = float(gains.mean())
    around = gains_at(llama.head, rows, [(a, b)], [scale * f for f in (0.25, 1.0, 4.0)])[0].mean(1)
    assert gain > 0
    assert int(around.argmax()) == 1
    assert float(around[1]) == pytest.approx(gain, rel=1e-4)


def test_the_largest_scale_keeps_nine_tenths_of_the_gain(llama, rows):
    a, b = direction(rows)
    ((best, gains),), largest = best_scales(llama.head, rows, [(a, b)]), largest_scale(llama.head, rows, a, b)
    gain = float(gains.mean())
    kept, beyond = gains_at(llama.head, rows, [(a, b)], [largest, 1.5 * largest])[0].mean(1).tolist()
    assert largest >= best
    # A concave curve lies above its chord: a little more than nine tenths are kept.
    assert 0.9 * gain <= kept < 0.95 * gain
    assert beyond < 0.9 * gain


@given(st.floats(1e-6, 10))
def test_a_unit_is_never_shorter_than_what_can_be_seen(scale):
    random = torch.Generator().manual_seed(0)
    c, f, a, b = (torch.randn(6, 6, generator=random, dtype=torch.float64) for _ in range(4))
    fisher = FisherFactors(c @ c.T, f @ f.T, torch.zeros(6, dtype=torch.float64))
    w, own = a @ b.T, long_enough(scale, fisher, a, b)
    length = own * float(torch.trace(w.T @ fisher.c @ w @ fisher.f)) ** 0.5
    assert own >= scale
    assert length >= SHORTEST * (1 - 1e-9)  # float64
    assert own == scale or length == pytest.approx(SHORTEST)


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_unit_moves_with_the_gains_and_does_not_jump(peak, height):
    scales = [peak * factor for factor in (0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0)]
    gains = [height * (1 - (scale / peak - 1) ** 2) for scale in scales]
    unit = _crossing(scales, gains, 0.9 * max(gains))
    nearly = _crossing(scales, gains, 0.9001 * max(gains))
    assert 1.25 * peak < unit < 1.5 * peak  # by the formula 1 + 0.1 ** 0.5 = 1.316, by the chord 1.28
    assert abs(unit - nearly) < 0.001 * peak
    assert _crossing(scales, [-1.0] * 7, -0.9) == scales[0]
    assert _crossing(scales, [1.0] * 7, 0.9) == scales[-1]


def test_some_rows_tell_how_the_gain_of_all_bends(llama, rows, monkeypatch):
    a, b = direction(rows)
    whole = largest_scale(llama.head, rows, a, b)
    monkeypatch.setattr("lmsteer.fitting.scale._SOME_ROWS", len(rows) // 4)
    assert largest_scale(llama.head, rows, a, b) == pytest.approx(whole, rel=0.35)  # two steps of the grid


def test_several_scales_are_each_their_own(llama, rows):
    a, b = direction(rows)
    both = best_scales(llama.head, rows, [(a, b), (3 * a, b)])
    assert both[0][0] == pytest.approx(3 * both[1][0])
    torch.testing.assert_close(both[0][1], both[1][1], rtol=1e-4, atol=1e-4)  # float32
