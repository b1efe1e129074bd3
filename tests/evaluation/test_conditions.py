"""Arms: the curve of a steer, and what it must beat."""

from __future__ import annotations

import pytest

from lmsteer.errors import DataError
from lmsteer.evaluation.conditions import BASELINES, conditions_of
from lmsteer.reading.components import components
from lmsteer.steer.mix import Mix
from tiny import random_steer


@pytest.fixture(scope="module")
def arms(llama):
    return conditions_of(llama, {"s": random_steer(llama)}, {"s": [-2.0, 3.0]}, BASELINES, ["Bad. ", "Good. "])


def test_arms_are_the_curve_and_what_it_must_beat(llama, arms):
    names = [arm.name for arm in arms]
    assert names[:3] == ["unsteered", "s=-2", "s=+3"]
    assert {"prompt -1", "prompt +1", "prompt & s=-2", "prompt & s=+3", "best of 8 -1", "best of 8 +1"} < set(names)
    by_name = {arm.name: arm for arm in arms}
    assert by_name["prompt & s=-2"].prefix == "Bad. "
    assert by_name["prompt & s=+3"].strengths == {"s": 3.0}
    listed = by_name["words +2"].steers["words"]
    assert listed.form == "offset"
    assert set(listed.factors["o"].tolist()) == {-1.0, 0.0, 1.0}
    assert len({arm.name for arm in arms}) == len(arms)
    one = {"s": random_steer(llama)}
    rivals = conditions_of(llama, {**one, "t": random_steer(llama, "add")}, {"s": [1.0, 0.0], "t": [2.0]})
    assert [(arm.name, arm.method) for arm in rivals] == [("unsteered", "unsteered"), ("s=+1", "s"), ("t=+2", "t")]
    with pytest.raises(DataError, match="unknown baselines magic"):
        conditions_of(llama, one, {"s": [1.0]}, ["magic"])
    with pytest.raises(DataError, match="two instructions"):
        conditions_of(llama, one, {"s": [1.0]}, ["prompting"])
    with pytest.raises(DataError, match="no strengths"):
        conditions_of(llama, one, {"s": []})


def test_lists_of_words_make_the_words_of_their_end_likelier(llama):
    steer = random_steer(llama)
    (component,) = components(llama, Mix({"s": steer}, {"s": 1.0}), components=1, words=10)
    by_name = {arm.name: arm for arm in conditions_of(llama, {"s": steer}, {"s": [1.0]}, ["words"])}
    offset = by_name["words +4"].steers["words"].factors["o"]
    assert all(offset[word.token] == 1 for word in component.upper)
    assert all(offset[word.token] == -1 for word in component.lower)
    assert by_name["words +4"].strengths == {"words": 4.0}


def test_instructions_stand_orthogonal_to_prompts(llama):
    steers = {"s": random_steer(llama)}
    found = conditions_of(llama, steers, {"s": [1.0]}, ["prompting"], ["Be sad.", "Be glad:\n"])
    assert {arm.prefix for arm in found} == {"", "Be sad. ", "Be glad:\n"}
