"""Conditions: the curve of a steer, and what it must beat."""

from __future__ import annotations

import pytest

from lmsteer.baselines.steer import SteerBaseline
from lmsteer.cli.evaluate import _INSTRUCTED, Baseline
from lmsteer.errors import DataError, WrongBaseError
from lmsteer.evaluation.condition_sets import BASELINES, INSTRUCTED, conditions_of
from lmsteer.evaluation.conditions import BaselineCondition, BestOf, Prefixed, Steered, Unsteered
from lmsteer.generation.config import GenerationConfig
from lmsteer.reading.components import components
from lmsteer.steer.mix import Mix
from lmsteer.steer.strength import Hold, Windowed
from lmsteer.steer.window import Window
from tiny import random_steer

GREEDY = GenerationConfig(2, 6)


@pytest.fixture(scope="module")
def conditions(llama):
    made = conditions_of(llama, {"s": random_steer(llama)}, {"s": [-2.0, 3.0]}, BASELINES, ["Bad. ", "Good. "])
    return {condition.name: condition for condition in made}


def texts_of(lm, condition, prompts=("abc", "xy")):
    return condition.generate(lm, list(prompts), condition.prefill(lm, list(prompts), 6), GREEDY)


def test_conditions_are_the_curve_and_its_baselines(llama, conditions):
    assert [*conditions][:3] == ["unsteered", "s=-2", "s=+3"]
    expected = {"prompt -1", "prompt +1", "prompt & s=-2", "prompt & s=+3", "best of 8 -1", "best of 8 +1"}
    expected |= {"contrastive prompts -2", "contrastive prompts +0.5", "guidance -1.5", "guidance +3", "top-p 0.5"}
    assert expected < conditions.keys()
    assert conditions["prompt & s=-2"].prefix == "Bad. "
    assert conditions["prompt & s=+3"].steering[1] == {"s": 3.0}
    words = conditions["words +2"].steers["words"]
    assert words.form == "offset"
    assert set(words.factors["o"].tolist()) == {-1.0, 0.0, 1.0}


def test_later_steers_have_curves_of_their_own(llama):
    steers = {"s": random_steer(llama), "t": random_steer(llama, "add")}
    made = conditions_of(llama, steers, {"s": [1.0, 0.0], "t": [2.0]})
    assert [(one.name, one.method) for one in made] == [("unsteered", "unsteered"), ("s=+1", "s"), ("t=+2", "t")]


def test_strengths_within_a_window_are_a_curve_of_their_own(llama):
    window = Window(10)
    strengths = {"s": [3.0, Windowed(3.0, window), Windowed(-3.0, window)]}
    found = conditions_of(llama, {"s": random_steer(llama)}, strengths)[1:]
    assert {(each.name, each.method, each.strength) for each in found} == {
        ("s=+3", "s", 3.0),
        ("s=+3@10..", "s@10..", 3.0),
        ("s=-3@10..", "s@10..", -3.0),
    }
    assert len({each.fingerprint for each in found}) == 3
    windows = [Window(place) for place in range(8, 0, -1)]
    strengths = {"s": [*(Windowed(3.0, each) for each in windows), 3.0, 3.0, Windowed(0.0, window), 0.0]}
    found = conditions_of(llama, {"s": random_steer(llama)}, strengths)[1:]
    assert [each.name for each in found] == [*(f"s=+3@{each}" for each in windows), "s=+3"]
    with pytest.raises(DataError, match="a hold has none of its own"):
        conditions_of(llama, {"s": random_steer(llama)}, {"s": [Hold(0.8)]})


def test_input_without_conditions_is_refused(llama):
    one = {"s": random_steer(llama)}
    with pytest.raises(DataError, match="unknown baselines magic"):
        conditions_of(llama, one, {"s": [1.0]}, ["magic"])
    with pytest.raises(DataError, match="two instructions"):
        conditions_of(llama, one, {"s": [1.0]}, ["prompting"])
    with pytest.raises(DataError, match="no strengths"):
        conditions_of(llama, one, {"s": []})
    for name in ("contrastive-prompting", "guidance"):
        with pytest.raises(DataError, match=f"{name} needs two instructions"):
            conditions_of(llama, one, {"s": [1.0]}, [name], ["Bad."])
    with pytest.raises(DataError, match="cannot be called words"):
        conditions_of(llama, {"words": one["s"]}, {"words": [1.0]})


def test_lists_of_words_make_the_words_of_their_end_likelier(llama):
    steer = random_steer(llama)
    (component,) = components(llama, Mix({"s": steer}, {"s": 1.0}), components=1, words=10)
    by_name = {one.name: one for one in conditions_of(llama, {"s": steer}, {"s": [1.0]}, ["words"])}
    offset = by_name["words +4"].steers["words"].factors["o"]
    assert all(offset[word.token] == 1 for word in component.upper)
    assert all(offset[word.token] == -1 for word in component.lower)
    assert by_name["words +4"].strengths == {"words": 4.0}


def test_instructions_are_separated_from_prompts_by_a_space(llama):
    steers = {"s": random_steer(llama)}
    made = conditions_of(llama, steers, {"s": [1.0]}, ["prompting"], ["Be sad.", "Be glad:\n"])
    assert {one.prefix for one in made if isinstance(one, Prefixed)} == {"Be sad. ", "Be glad:\n"}


def test_prefixed_text_is_that_of_the_inner_condition_after_the_prefix(llama, conditions):
    inner = conditions["s=+3"]
    assert texts_of(llama, Prefixed("p", "p", 3.0, "Good. ", inner)) == texts_of(
        llama, inner, ["Good. abc", "Good. xy"]
    )


def test_a_steer_as_a_baseline_generates_the_same_as_the_steer(llama):
    steer = random_steer(llama)
    steered = Steered("s", "s", 2.0, {"s": steer}, {"s": 2.0})
    assert texts_of(llama, BaselineCondition("b", "b", 2.0, SteerBaseline(steer))) == texts_of(llama, steered)
    assert texts_of(llama, Unsteered()) != texts_of(llama, steered)


def test_fingerprints_tell_what_acts_apart(llama, conditions):
    steer, other = random_steer(llama), random_steer(llama, seed=1)
    made = [
        *conditions.values(),
        Steered("s=+3", "s", 3.0, {"s": other}, {"s": 3.0}),
        BestOf("best of 8 +1", "best-of-n", 1.0, other),
        BestOf("best of 8 +1", "best-of-n", 1.0, steer, 4),
        Prefixed("prompt +1", "prompting", 1.0, "Good: ", Unsteered()),
        BaselineCondition("b", "b", 1.0, SteerBaseline(steer)),
        BaselineCondition("b", "b", 2.0, SteerBaseline(steer)),
        BaselineCondition("b", "b", 2.0, SteerBaseline(other)),
    ]
    assert len({(one.name, one.fingerprint) for one in made}) == len(made)


def test_every_condition_refuses_another_base(make_lm, conditions):
    qwen = make_lm("qwen2")
    for name in ("s=+3", "prompt & s=+3", "words +2", "best of 8 +1"):
        with pytest.raises(WrongBaseError):
            conditions[name].prefill(qwen, ["abc"], 4)
    assert BASELINES == ("prompting", "words", "best-of-n", "contrastive-prompting", "guidance", "greedier")
    assert [*BASELINES] == [*Baseline]  # the command line has them without importing torch
    assert {*INSTRUCTED} == _INSTRUCTED
