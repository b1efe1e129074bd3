"""Words are made of tokens, and every token belongs to one word."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.reading.words import is_word, words_of


@given(st.text(max_size=30), st.data())
def test_words_partition_the_tokens_whatever_the_text(text, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    bounds = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    words = words_of(text, bounds)
    assert [token for word in words for token in range(word.first, word.last)] == list(range(len(bounds)))
    assert all(0 <= word.start <= word.end <= len(text) for word in words)
    assert all(one.start <= other.start for one, other in pairwise(words))


def test_words_are_those_of_the_text():
    text = "It isn't  a  well-made film, naïve… 好"
    bounds = [(k, k + 1) for k in range(len(text))]
    shown = [text[word.start : word.end] for word in words_of(text, bounds)]
    assert [word for word in shown if word] == ["It", "isn't", "a", "well-made", "film", ",", "naïve", "…", "好"]


def test_a_token_belongs_to_the_word_that_it_begins_in():
    text = "one two three"
    words = words_of(text, [(0, 2), (2, 5), (5, 9), (9, 13), (13, 13)])
    assert [(text[w.start : w.end], w.first, w.last) for w in words] == [
        ("one t", 0, 2),
        ("wo t", 2, 3),
        ("hree", 3, 4),
        ("", 4, 5),
    ]


@pytest.mark.parametrize("text", ["हिन्दी", "cafe\u0301", "don\u2019t", "naïve", "עִבְרִית"])
def test_marks_belong_to_the_letters_that_they_stand_on(text):
    (word,) = words_of(text, [(k, k + 1) for k in range(len(text))])
    assert (word.start, word.end) == (0, len(text))


def test_words_are_letters_with_their_marks():
    assert all(map(is_word, ["हिन्दी", "cafe\u0301", "Ärger", "слово"]))
    assert not any(map(is_word, ["", "a1", "-", "\u0301e", "two words"]))


def test_blanks_behind_a_word_are_none_of_it():
    words = words_of("One.\n\nTwo", [(0, 3), (3, 6), (6, 9)])
    assert [(word.start, word.end) for word in words] == [(0, 3), (3, 4), (6, 9)]
