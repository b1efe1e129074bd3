"""Words, sentences, syllables and listed phrases."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.evaluation.measures.counts import PHRASES, occurrences, sentences, syllables, words


def test_words_are_contractions_compounds_and_numbers():
    assert words("Don’t re-read 3 “Books”, _x_ -- café!") == ["don't", "re-read", "3", "books", "x", "café"]


def test_sentences_end_at_marks_and_lines():
    text = 'He said "Go!" Then 3.5 left. Why?\nRoses are red\n\n...\nand then'
    assert sentences(text) == ['He said "Go!', "Then 3.5 left.", "Why?", "Roses are red", "and then"]


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("the", 1),
        ("table", 2),
        ("named", 1),
        ("wanted", 2),
        ("houses", 2),
        ("makes", 1),
        ("stone", 1),
        ("beautiful", 3),
    ],
)
def test_syllables(word, count):
    assert syllables(word) == count


def test_phrases_are_whole_words_and_the_longest_counts():
    assert occurrences("Maybe, maybe; maybes. I THINK so", "hedges") == 3
    assert occurrences("without a doubt, without doubt", "certainty") == 2
    assert occurrences("a sense of a testament to", "cliches") == 2
    assert occurrences("I think", "first-person", "hedges") == 1


@settings(max_examples=50, derandomize=True)
@given(st.text(max_size=80))
def test_no_text_breaks_the_counts(text):
    assert len(sentences(text)) <= len(words(text))
    assert bool(sentences(text)) == bool(words(text))
    assert all(syllables(word) >= 1 for word in words(text))
    assert words(text.strip()) == words(text)


def test_every_phrase_of_a_list_can_be_found_and_stands_there_once():
    for name, phrases in json.loads(PHRASES.read_text()).items():
        assert len(set(phrases)) == len(phrases), name
        assert [phrase for phrase in phrases if occurrences(phrase, name) != 1] == []
