"""The two ends of a style dimension in words."""

from __future__ import annotations

import pytest

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError


def contents(contrast, instruction, subject="a cat"):
    return [(message.role, message.content) for message in contrast.chat(instruction, subject).messages]


def test_a_description_is_a_style_that_the_user_asks_for():
    contrast = Contrast.of_descriptions(" warm, kind ", "cold")
    assert contents(contrast, contrast.positive) == [("user", "Write a short text about a cat.\nStyle: warm, kind.")]
    assert contents(contrast, "") == [("user", "Write a short text about a cat.")]
    assert not contrast.is_one_sided


def test_a_prompt_is_a_system_turn_and_its_opposite_is_none():
    contrast = Contrast.of_prompt("Talk like a pirate.\n")
    assert contents(contrast, contrast.positive) == [
        ("system", "Talk like a pirate."),
        ("user", "Write a short text about a cat."),
    ]
    assert contents(contrast, contrast.negative) == contents(contrast, "")
    assert contrast.is_one_sided


def test_without_a_chat_template_the_instruction_is_a_heading():
    contrast = Contrast.of_descriptions("warm")
    assert contrast.heading("warm", "a cat") == "warm\n\nA short text about a cat:\n\n"
    assert contrast.heading("", "a cat") == "A short text about a cat:\n\n"


@pytest.mark.parametrize("positive", ["", " \n"])
def test_an_empty_description_is_refused(positive):
    with pytest.raises(DataError, match="positive end is empty"):
        Contrast.of_descriptions(positive, "cold")
    with pytest.raises(DataError, match="negative end is empty"):
        Contrast.of_descriptions("warm", positive)
    with pytest.raises(DataError, match="system prompt is empty"):
        Contrast.of_prompt(positive)


def test_equal_ends_are_refused_whatever_their_spaces():
    with pytest.raises(DataError, match="same description"):
        Contrast.of_descriptions("warm  and kind", " warm and kind")


def test_the_subjects_are_short_and_differ():
    subjects = starter_subjects()
    assert len(set(subjects)) == len(subjects) == 60
    assert all(0 < len(subject) < 40 for subject in subjects)
