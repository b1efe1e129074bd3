"""Safe ranges: their ends are where the perplexity passes the limit, and levels are found between them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.errors import DataError, SteerError
from lmsteer.evaluation import safe_range as module
from lmsteer.evaluation.safe_range import Trial, _border, _reached, calibrate
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate, perplexity
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.notation import strength_of
from tiny import random_steer

PROMPTS = ["abc", "The end", "x", "12"]


def letters(texts):
    """Share of texts with more than three ASCII letters."""
    return [float(sum(sign.isascii() and sign.isalpha() for sign in text) > 3) for text in texts]


@pytest.fixture(scope="module")
def found(llama):
    return calibrate(llama, random_steer(llama), PROMPTS, ratio=1.3, attribute=letters, level=0.5, n=4)


def test_ends_of_the_range_are_safe_and_what_lies_beyond_is_not(llama, found):
    steers = {"s": random_steer(llama)}

    def measured(strength):
        rows = generate(llama, PROMPTS, steers, [{"s": strength}], GenerationConfig(4, 24, score=True))
        return perplexity(list(rows))

    base = measured(0.0)
    assert found.low < 0 < found.high
    for end in (found.low, found.high):
        assert measured(end) <= 1.3 * base
        beyond = min((t.strength for t in found.trials if t.strength / end > 1), key=abs)
        trial = next(t for t in found.trials if t.strength == beyond)
        assert trial.perplexity > 1.3 * base or trial.repetition > found.trials[0].repetition
    assert [t.strength for t in found.trials] == sorted(t.strength for t in found.trials)


def test_the_range_goes_with_the_unit_of_strength(llama, found):
    half = calibrate(llama, random_steer(llama).scaled(0.5), PROMPTS, ratio=1.3, n=4)
    assert half.high == pytest.approx(2 * found.high, rel=0.15)  # borders are found to a sixteenth
    assert half.reached is None
    assert all(math.isnan(trial.level) for trial in half.trials)


def test_a_card_keeps_what_was_found(llama, found, tmp_path):
    steer = random_steer(llama)
    save_steer(replace(steer, card=found.on(steer.card)), tmp_path / "s")
    card = load_steer(tmp_path / "s").card
    assert card.safe_range == (found.low, found.high)
    assert card.calibration["max_perplexity_ratio"] == 1.3
    assert card.calibration.get("target_strength") == found.reached
    assert len(card.calibration["curve"]) == len(found.trials)


@given(st.floats(1 / 64, 60))
def test_the_border_is_found_to_a_sixteenth_from_below(border):
    found = _border(lambda size: size <= border)
    assert 0 < found <= border
    assert border - found <= border / 16


def test_without_a_border_the_search_ends():
    assert _border(lambda size: True) == 64
    assert _border(lambda size: False) == 0


@pytest.mark.parametrize(
    ("levels", "wanted", "expected"),
    [
        ([0.5, 0.7, 0.9], 0.8, 1.5),
        ([0.5, 0.3, 0.1], 0.2, 1.5),
        ([0.5, 0.7], 0.9, None),
        ([0.5, 0.7, 0.4], 0.7, 1.0),
        ([0.5, 0.5], 0.5, 0.0),
    ],
)
def test_levels_are_found_between_strengths(levels, wanted, expected):
    assert _reached([Trial(float(k), 1.0, 0.0, level) for k, level in enumerate(levels)], wanted) == expected


def test_text_that_loops_is_not_safe(llama, monkeypatch):
    """At the same perplexity."""

    def loops(*_, **__):
        strength = _[3][0]["s"]
        text = "on and on " * 9 if strength > 2 else "a text that says a thing once and then another"
        return iter([Continuation("p", text, {"s": strength}, 0, 10, -20.0)])

    monkeypatch.setattr(module, "generate", loops)
    found = calibrate(llama, random_steer(llama), PROMPTS)
    assert (found.low, found.high) == (-64, 2)


def test_auto_is_none_where_no_strength_did(llama, found):
    none = replace(found, level=0.9, reached=None)
    card = none.on(random_steer(llama).card)
    assert card.calibration["target_strength"] is None
    with pytest.raises(SteerError, match=r"reached its target 0\.9"):
        strength_of("auto", card)


def test_what_cannot_be_found_is_refused(llama):
    for ratio in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(DataError, match="ratio above 1"):
            calibrate(llama, random_steer(llama), PROMPTS, ratio=ratio)
    with pytest.raises(DataError, match="level of nan"):
        calibrate(llama, random_steer(llama), PROMPTS, attribute=letters, level=math.nan)
    with pytest.raises(DataError, match="give both"):
        calibrate(llama, random_steer(llama), PROMPTS, level=0.5)
