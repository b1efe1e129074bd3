from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.serving.http.web.sliders import slider_range, steer_slider
from tiny import random_steer

# `calibrate` tries strengths from 1/64 to 64; a range may lie on one side of 0.
ENDS = st.floats(1e-3, 1e3)


@given(st.one_of(st.just(0.0), ENDS), st.one_of(st.just(0.0), ENDS))
def test_slider_covers_the_safe_range_in_steps_fine_enough(below, above):
    low, high = -below, above
    least, most, step = slider_range(low, high)
    assert least <= low <= high <= most
    assert least <= 0 <= most
    for end in (least, most):  # so that the slider can stand at 0
        assert end / step == pytest.approx(round(end / step))
    span = max(below, above)
    if span:
        assert 20 <= span / step <= 50 * (1 + 1e-9)
        assert most - least <= 3 * span + 2 * step


@pytest.mark.parametrize(
    ("safe_range", "slider"),
    [
        ((-5.0, 5.0), (-7.5, 7.5, 0.25)),
        ((-1 / 64, 1 / 64), (-0.0235, 0.0235, 0.0005)),
        ((0.0, 0.05), (0.0, 0.075, 0.0025)),
        ((0.0, 0.0), (-7.5, 7.5, 0.25)),
    ],
)
def test_slider_of_a_safe_range(safe_range, slider):
    assert slider_range(*safe_range) == slider


def test_slider_stands_at_zero_and_names_the_safe_range(llama):
    slider = steer_slider("style", replace(random_steer(llama).card, safe_range=(-0.02, 0.04)))
    assert (slider.minimum, slider.maximum, slider.value) == (-0.03, 0.06, 0)
    assert slider.info == "anything; safe from -0.02 to +0.04"
    assert "not known" in steer_slider("style", random_steer(llama).card).info
