"""Encoding of texts that are read: one start, one end, and which characters the tokens cover."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import processors

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, ModelError
from lmsteer.reading.encode import encode, encode_with_offsets
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable, ids_digest
from tiny import tiny_tokenizer


@pytest.fixture
def adding(llama):
    """The tiny model with a tokenizer that puts a start token before each text and an end behind it."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return replace(llama, tokenizer=tokenizer)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_start_and_end_stand_around_a_text_when_asked_for(llama, start, end):
    (ids,) = encode(llama, ["ab"], start=start, end=end)
    body = llama.encode(["ab"])[0]
    assert ids == [llama.start_id] * start + body + [llama.end_id] * end
    assert encode_with_offsets(llama, "ab", start=start, end=end).ids == ids


def test_a_tokenizer_that_adds_them_itself_gets_no_second_ones(adding):
    assert adding.start_id == 1
    (ids,) = encode(adding, ["ab"], start=True, end=True)
    assert ids == adding.encode(["ab"])[0]
    encoded = encode_with_offsets(adding, "ab", start=True, end=True)
    assert encoded.ids == ids
    assert encoded.bounds == [(0, 0), (0, 1), (1, 2), (2, 2)]


@given(st.lists(st.sampled_from(["a", " ", "é", "<s>", "</s>"]) | st.text(max_size=3), max_size=6).map("".join))
@example("bad</s>")
def test_both_ways_to_encode_agree_and_bounds_are_as_many_as_ids(llama, text):
    encoded = encode_with_offsets(llama, text, start=True, end=True)
    assert len(encoded.ids) == len(encoded.bounds)
    if encoded.ids:
        assert [encoded.ids] == encode(llama, [text], start=True, end=True)


def test_a_text_without_tokens_of_its_own_is_empty(llama, adding):
    for lm in (llama, adding):
        for text in ("", " \n"):
            assert encode_with_offsets(lm, text, start=True, end=True) == ([], [])


class SlowTokenizer:
    """A tokenizer that does not say which characters its tokens cover."""

    is_fast = False

    def __init__(self, fast):
        self.fast = fast

    def __getattr__(self, name):
        return getattr(self.fast, name)

    def __call__(self, texts, **options):
        return self.fast(texts, **options)


def test_a_slow_tokenizer_is_asked_token_by_token_or_refused(llama):
    expected = encode_with_offsets(llama, "plain text", start=False, end=False)
    slow = replace(llama, tokenizer=SlowTokenizer(llama.tokenizer))
    assert encode_with_offsets(slow, "plain text", start=False, end=False) == expected
    with pytest.raises(ModelError, match="which characters its tokens cover"):
        encode_with_offsets(slow, "naïve", start=False, end=False)


def test_bounds_are_those_of_the_tokens(llama):
    text = "naïve café"
    ids, bounds = encode_with_offsets(llama, text, start=False, end=False)
    assert ids == llama.encode([text])[0]
    assert "".join(text[start:end] for start, end in dict.fromkeys(bounds)) == text  # the two bytes of ï share bounds


def test_texts_of_a_fit_are_cut_or_refused(make_lm):
    lm = make_lm("gpt2")
    long, short = LabelledText("a" * lm.max_length, 1.0), LabelledText("ab", -1.0)
    with pytest.raises(DataError, match="the first of them text 2"):
        encode_labelled(lm, [short, long])
    assert [len(ids) for ids in encode_labelled(lm, [short, long], 2)] == [2, 2]
    with pytest.raises(DataError, match="the least is 2"):
        encode_labelled(lm, [short], 1)
    fits = LabelledText("a" * (lm.max_length - 1), 1.0)
    assert len(encode_labelled(lm, [fits])[0]) == lm.max_length


def test_readable_texts_are_single_and_have_a_token_to_predict(llama, capsys):
    texts, ids = encode_readable(llama, [LabelledText(text, 1.0) for text in ("", "a", "a", "bc")])
    assert [text.text for text in texts] == ["a", "bc"]
    assert [*map(list, ids)] == [*map(list, encode_labelled(llama, texts))]
    assert capsys.readouterr().err == "1 of 3 texts are left out: the tokenizer finds no token to predict in them.\n"
    with pytest.raises(DataError, match="none of the 1 texts has a token to predict"):
        encode_readable(llama, [LabelledText("", 1.0)])


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4))
def test_a_digest_tells_texts_from_other_texts_whatever_their_bounds(ids):
    others = [[*ids[0], *ids[1]], *ids[2:]] if len(ids) > 1 else [*ids, []]
    assert ids_digest(ids) != ids_digest(others)
    assert ids_digest(ids) == ids_digest([tuple(text) for text in ids])
