"""Safe ranges end where the perplexity exceeds its limit, and targets are found within them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.data.minimal_pairs import Kept, MinimalPair
from lmsteer.errors import DataError, SteerError
from lmsteer.evaluation import safe_range as module
from lmsteer.evaluation.minimal_pairs import PairReader
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.safe_range import Pieces, _limit, _strength_at, calibrate
from lmsteer.evaluation.trials import Trial
from lmsteer.generation import kept_prompts
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate, perplexity
from lmsteer.generation.writing import NotFiniteError
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.notation import strength_of
from tiny import inner_steer, random_steer

PROMPTS = ["abc", "The end", "x", "12"]
FOUR = Protocol(num_samples=4)


def letters(texts):
    """Whether each text has more than three ASCII letters."""
    return [float(sum(sign.isascii() and sign.isalpha() for sign in text) > 3) for text in texts]


@pytest.fixture(scope="module")
def safe(llama):
    steer = random_steer(llama)
    return calibrate(llama, steer, PROMPTS, max_perplexity_ratio=1.3, attribute=letters, target=0.3, protocol=FOUR)


def test_the_ends_of_the_range_are_safe_and_strengths_beyond_them_are_not(llama, safe):
    steers = {"s": random_steer(llama)}

    def measured(strength):
        rows = generate(llama, PROMPTS, steers, [{"s": strength}], GenerationConfig(4, 20, score=True))
        return perplexity(list(rows))

    base = measured(0.0)
    assert safe.low < 0 < safe.high
    for end in (safe.low, safe.high):
        assert measured(end) <= 1.3 * base
        beyond = min((t.strength for t in safe.trials if t.strength / end > 1), key=abs)
        trial = next(t for t in safe.trials if t.strength == beyond)
        unsteered = next(t for t in safe.trials if not t.strength)
        assert trial.perplexity > 1.3 * base or trial.rep_3 > unsteered.rep_3 + 0.1
    assert [t.strength for t in safe.trials] == sorted(t.strength for t in safe.trials)


def test_strengths_at_which_too_little_grammar_is_left_are_not_safe(llama, safe):
    drawn = random.Random(0)
    pairs = [MinimalPair(*("".join(drawn.choices("abcdefgh ", k=n)) for _ in range(2))) for n in range(4, 44)]
    steer = random_steer(llama)
    found = calibrate(llama, steer, PROMPTS, max_perplexity_ratio=1.3, keep=Kept(pairs, 0.99), protocol=FOUR)
    reader = PairReader(llama, steer, pairs)
    base = reader.accuracy(0.0)
    assert all(trial.accuracy == reader.accuracy(trial.strength) for trial in found.trials)
    for end in (found.low, found.high):
        assert reader.accuracy(end) >= 0.99 * base
    assert safe.low <= found.low <= 0 <= found.high <= safe.high
    assert (found.low, found.high) != (safe.low, safe.high)  # it acts
    assert all(math.isnan(trial.accuracy) for trial in safe.trials)


def test_pairs_of_which_none_is_right_are_refused(llama):
    pair = MinimalPair("abcabcabcabc", "x")
    assert not PairReader(llama, random_steer(llama), [pair]).accuracy(0.0)
    with pytest.raises(DataError, match="none of the minimal pairs right"):
        calibrate(llama, random_steer(llama), PROMPTS, keep=Kept([pair], 0.9), protocol=FOUR)


def test_in_pieces_it_finds_the_same(llama, safe):
    sizes = []

    def run(piece):
        sizes.append(piece)
        return piece()

    steer, pieces = random_steer(llama), Pieces(run, prompts=3)
    found = calibrate(llama, steer, PROMPTS, max_perplexity_ratio=1.3, protocol=FOUR, pieces=pieces)
    assert (found.low, found.high) == (safe.low, safe.high)
    assert len(sizes) == 2 * (1 + len(found.trials))
    whole = {trial.strength: trial.perplexity for trial in safe.trials}
    assert [trial.perplexity for trial in found.trials] == pytest.approx(
        [whole[t.strength] for t in found.trials], rel=1e-4
    )


def test_inside_the_model_prompts_are_read_at_each_strength(llama, monkeypatch):
    monkeypatch.setattr(module, "read_once", None)
    steer = inner_steer(llama, ["layers.0"])
    found = calibrate(llama, steer, PROMPTS, max_perplexity_ratio=1.3, protocol=FOUR)
    trial = found.trials[-1]
    config = replace(FOUR.generation_config(), score=True)
    rows = list(generate(llama, PROMPTS, {"s": steer}, [{"s": trial.strength}], config))
    assert trial.perplexity == pytest.approx(perplexity(rows), rel=1e-4)


def test_the_range_scales_with_the_unit_of_strength(llama, safe):
    half = calibrate(llama, random_steer(llama).scaled(0.5), PROMPTS, max_perplexity_ratio=1.3, protocol=FOUR)
    assert half.high == pytest.approx(2 * safe.high, rel=0.15)  # limits are found to a sixteenth
    assert half.target_strength is None
    assert all(math.isnan(trial.score) for trial in half.trials)


def test_a_card_keeps_the_calibration(llama, safe, tmp_path):
    steer = random_steer(llama)
    save_steer(replace(steer, card=safe.add_to(steer.card)), tmp_path / "s")
    card = load_steer(tmp_path / "s").card
    assert card.safe_range == (safe.low, safe.high)
    assert card.calibration["max_perplexity_ratio"] == 1.3
    assert card.calibration["target_strength"] == safe.target_strength
    assert len(card.calibration["curve"]) == len(safe.trials)
    assert card.calibration["curve"][0].keys() == {"strength", "perplexity", "rep_3", "score"}


@given(st.floats(1 / 64, 60))
def test_the_limit_is_found_to_an_eighth_from_below(limit):
    found = _limit(lambda size: size <= limit)
    assert 0 < found <= limit
    assert limit - found <= limit / 8


def test_the_search_ends_without_a_limit():
    assert _limit(lambda size: True) == 64
    assert _limit(lambda size: False) == 0


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ([0.5, 0.7, 0.9], 0.8, 1.5),
        ([0.5, 0.3, 0.1], 0.2, 1.5),
        ([0.5, 0.7], 0.9, None),
        ([0.5, 0.7, 0.4], 0.7, 1.0),
        ([0.5, 0.5], 0.5, 0.0),
    ],
)
def test_targets_are_found_between_strengths(scores, target, expected):
    assert _strength_at([Trial(float(k), 1.0, 0.0, score) for k, score in enumerate(scores)], target) == expected


def test_degenerate_text_is_not_safe_at_the_same_perplexity(llama, monkeypatch):
    def repeating(*arguments, **_):
        strength = arguments[4][0]["s"]
        text = "on and on " * 9 if strength > 2 else "a text that says a thing once and then another"
        return iter([Continuation("p", text, {"s": strength}, 0, 10, -20.0)])

    monkeypatch.setattr(module, "continue_from", repeating)
    safe = calibrate(llama, random_steer(llama), PROMPTS)
    assert (safe.low, safe.high) == (-64, 2)


def test_auto_is_refused_if_no_strength_reaches_the_target(llama, safe):
    card = replace(safe, target=0.9, target_strength=None).add_to(random_steer(llama).card)
    assert card.calibration["target_strength"] is None
    with pytest.raises(SteerError, match=r"0\.9"):
        strength_of("auto", card)


def test_input_that_cannot_be_calibrated_is_refused(llama):
    for ratio in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(DataError, match="a number above 1"):
            calibrate(llama, random_steer(llama), PROMPTS, max_perplexity_ratio=ratio)
    with pytest.raises(DataError, match="not nan"):
        calibrate(llama, random_steer(llama), PROMPTS, attribute=letters, target=math.nan)
    with pytest.raises(DataError, match="give the attribute"):
        calibrate(llama, random_steer(llama), PROMPTS, target=0.5)


def test_strengths_at_which_logits_overflow_are_not_safe(llama, monkeypatch):
    def overflowing(*arguments, **_):
        strength = arguments[4][0]["s"]
        if abs(strength) > limit:
            raise NotFiniteError
        return iter([Continuation("p", "a text", {"s": strength}, 0, 10, -20.0)])

    monkeypatch.setattr(module, "continue_from", overflowing)
    limit = 2
    safe = calibrate(llama, random_steer(llama), PROMPTS)
    assert (safe.low, safe.high) == (-2, 2)
    limit = -1
    with pytest.raises(NotFiniteError):
        calibrate(llama, random_steer(llama), PROMPTS)


def test_prompts_are_read_once_for_all_strengths(llama, monkeypatch):
    read = []
    embedding = llama.model.get_input_embeddings()
    steer, protocol = random_steer(llama), Protocol(num_samples=2, max_new_tokens=4)
    calibrate(llama, steer, PROMPTS, protocol=protocol)  # the model is checked once
    with embedding.register_forward_hook(lambda _, args, __: read.append(args[0].shape[1])):
        once = calibrate(llama, steer, PROMPTS, protocol=protocol)
        assert sum(width > 1 for width in read) == 1
        monkeypatch.setattr(kept_prompts, "_MOST_TOKENS", 0)
        read.clear()
        again = calibrate(llama, steer, PROMPTS, protocol=protocol)
        assert sum(width > 1 for width in read) == len(again.trials)
    assert (once.low, once.high) == (again.low, again.high)
    for one, other in zip(once.trials, again.trials, strict=True):
        assert one.perplexity == pytest.approx(other.perplexity, rel=1e-4)  # float32, read in other batches
