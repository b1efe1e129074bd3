"""Whole words of the real model are distinguished from tokens that begin longer words."""

from __future__ import annotations

import pytest
import torch

from lmsteer.reading.whole_words import WholeWords


@pytest.fixture(scope="module")
def whole(smollm2):
    return WholeWords(smollm2)


def token_of(lm, text):
    (token,) = lm.tokenizer.encode(text)
    return token


def words_among(lm, whole, texts):
    """Those of some tokens that are taken for whole words, given in order of weight."""
    weights = torch.zeros(lm.head.weight.shape[0])
    for k, text in enumerate(texts):
        weights[token_of(lm, text)] = len(texts) - k
    return [word.text for word in whole.first(weights, len(texts))]


@pytest.mark.model
def test_whole_words_are_told_from_pieces(smollm2, whole):
    assert words_among(smollm2, whole, [" wonderful", " terrible", " film", " Paris"]) == [
        "wonderful",
        "terrible",
        "film",
        "Paris",
    ]
    # as in unremarkable and disappointment, "ing" continues a word, and a dash is none
    assert words_among(smollm2, whole, [" unre", " disapp", "ing", " -", "."]) == []


@pytest.mark.model
def test_words_with_letters_beyond_ascii_are_words(smollm2, whole):
    assert smollm2.tokenizer.convert_ids_to_tokens(token_of(smollm2, " café")) == "ĠcafÃ©"
    assert words_among(smollm2, whole, [" café"]) == ["café"]


@pytest.mark.model
def test_a_word_stands_once_whatever_its_case(smollm2, whole):
    assert words_among(smollm2, whole, [" great", " Great", " good"]) == ["great", "good"]
