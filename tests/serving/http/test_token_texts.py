import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmsteer.model.codec import Codec
from lmsteer.serving.http.token_texts import TokenNames, TokenTexts
from tiny import spaced_tokenizer, tiny_tokenizer

TOKENIZERS = {"bytes": tiny_tokenizer(), "spaces in front": spaced_tokenizer()}


def codec_of(tokenizer):
    return Codec(tokenizer, len(tokenizer), "tiny")


def texts_of(tokenizer, ids, prompt=""):
    """The texts of tokens, and where each begins."""
    texts, found = TokenTexts(codec_of(tokenizer), TokenNames(codec_of(tokenizer)), prompt), []
    for place, token in enumerate(ids, 1):
        offset = texts.offset
        found.append((texts.add(token, last=place == len(ids)), offset))
    return found


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@given(text=st.text(min_size=1))
@example(text="it was the")
@example(text="a é 😀 b")
@example(text=" two  spaces ")
@example(text="said</s>")
def test_texts_of_a_prompts_tokens_make_the_prompt(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    found = texts_of(tokenizer, ids, text)
    added = 1 if ids[0] == 1 and not text.startswith("<s>") else 0  # <s>, which the text is without
    assert "".join(piece for piece, _ in found[added:]) == text
    assert all(text[offset : offset + len(piece)] == piece for piece, offset in found[added:])
    if added:
        assert found[0] == ("<s>", 0)
        assert found[1][1] == 0


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_end_of_a_generated_text_has_a_name_and_no_place(tokenizer):
    ids = [*tokenizer("it was", add_special_tokens=False)["input_ids"], 2, *tokenizer("as")["input_ids"][-1:]]
    *_, before, end, after = texts_of(tokenizer, ids)
    assert end == ("</s>", before[1] + len(before[0]))
    assert after[1] == end[1]


def test_a_character_of_several_tokens_counts_for_the_last():
    found = texts_of(TOKENIZERS["bytes"], TOKENIZERS["bytes"]("é!")["input_ids"])
    assert found == [("", 0), ("é", 0), ("!", 1)]
    broken = TOKENIZERS["bytes"]("é", add_special_tokens=False)["input_ids"][:1]
    assert texts_of(TOKENIZERS["bytes"], broken) == [("\N{REPLACEMENT CHARACTER}", 0)]


def test_names_tell_words_from_parts_of_words():
    tokenizer = TOKENIZERS["spaces in front"]
    names = TokenNames(codec_of(tokenizer))
    assert [names(tokenizer.convert_tokens_to_ids(token)) for token in ("▁t", "th", "▁", "</s>")] == [
        " t",
        "th",
        " ",
        "</s>",
    ]
