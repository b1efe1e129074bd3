"""The vocabulary: what tokens stand for, in any tokenizer."""

from __future__ import annotations

import pytest

from lmsteer.model.vocabulary import token_texts
from tiny import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_stand_for_themselves_where_they_are_characters(make_lm, family):
    lm = make_lm(family)
    texts = token_texts(lm)
    assert len(texts) == lm.head.weight.shape[0]
    assert {chr(code) for code in range(32, 127)} <= set(texts)
    assert texts[lm.end_id] == ""
    assert not any("\ufffd" in text for text in texts)


@pytest.mark.model
def test_words_of_the_default_model_keep_their_blank_and_their_accents(smollm2):
    texts = token_texts(smollm2)
    for text in (" wonderful", "ing", " café", "\n"):
        (token,) = smollm2.tokenizer.encode(text)
        assert texts[token] == text
