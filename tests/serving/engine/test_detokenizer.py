import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.serving.engine.detokenizer import Detokenizer
from tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@given(st.text())
def test_pieces_make_the_text_and_cut_no_character(text):
    unfolding = Detokenizer(TOKENIZER)
    pieces = [unfolding.add(token) for token in ids_of(text)]
    assert "".join([*pieces, unfolding.end()]) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.text("ab \n"), st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_whatever_the_tokens(text, stops):
    unfolding = Detokenizer(TOKENIZER, stops)
    told = ""
    for token in ids_of(text):
        told += unfolding.add(token)
        if unfolding.stopped:
            break
    whole = told + unfolding.end()
    # The text as it was when a stop was complete in it: the one that is complete first counts.
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    expected = text
    if ends:
        sofar = text[: min(ends)]
        expected = sofar[: min(at for stop in stops if (at := sofar.find(stop)) >= 0)]
    assert whole == expected
    assert unfolding.stopped == bool(ends)


@pytest.mark.model
def test_pieces_of_the_default_model_are_what_it_decodes_as_a_whole(smollm2):
    for text in ("The café – naïve, 東京 and 🙂🙃.\n\n  Indented; it's  twice.", " leading", "🙂" * 9):
        ids = smollm2.encode([text])[0]
        unfolding = Detokenizer(smollm2.tokenizer)
        assert "".join([*map(unfolding.add, ids), unfolding.end()]) == smollm2.tokenizer.decode(ids) == text
