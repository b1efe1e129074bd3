import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.model.codec import Codec
from tiny import spaced_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


class WithoutStream:
    """A tokenizer that decodes whole lists of tokens only, as slow ones do."""

    is_fast = False

    def __init__(self, tokenizer):
        self.decode, self.get_vocab = tokenizer.decode, tokenizer.get_vocab
        self.added_tokens_encoder = tokenizer.added_tokens_encoder


TOKENIZERS = pytest.mark.parametrize("tokenizer", [TOKENIZER, WithoutStream(TOKENIZER)], ids=["fast", "slow"])


def codec_of(tokenizer):
    return Codec(tokenizer, len(TOKENIZER), "tiny")


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def pieces_of(tokenizer, ids):
    detokenizer = Detokenizer(codec_of(tokenizer))
    return [*(detokenizer.add(token) for token in ids), detokenizer.end()]


@TOKENIZERS
@given(text=st.text())
def test_pieces_make_the_text_and_cut_no_character(tokenizer, text):
    pieces = pieces_of(tokenizer, ids_of(text))
    assert "".join(pieces) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@TOKENIZERS
@given(ids=st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_pieces_of_any_tokens_make_the_whole_decoded_text(tokenizer, ids):
    """Tokens are bytes here: most lists have special tokens and broken characters in them."""
    assert "".join(pieces_of(tokenizer, ids)) == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_fast_and_slow_tokenizers_give_the_same_pieces(ids):
    assert pieces_of(TOKENIZER, ids) == pieces_of(WithoutStream(TOKENIZER), ids)


def test_failing_stream_decoder_is_replaced(monkeypatch):
    class Failing:
        """Decodes one token, then fails as the stream decoder does for some tokenizers."""

        def __init__(self, **_):
            self.failing = False

        def step(self, tokenizer, token):
            if self.failing:
                raise RuntimeError("Invalid prefix encountered while decoding stream")
            self.failing = True
            return tokenizer.decode([token])

    monkeypatch.setattr("lmsteer.generation.detokenizer.DecodeStream", Failing)
    assert "".join(pieces_of(TOKENIZER, ids_of("a café"))) == "a café"


@TOKENIZERS
@given(text=st.text("ab \n"), stops=st.lists(st.text("ab \n", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(tokenizer, text, stops):
    detokenizer = Detokenizer(codec_of(tokenizer), stops)
    streamed = ""
    for token in ids_of(text):
        streamed += detokenizer.add(token)
        if detokenizer.stopped:
            break
    whole = streamed + detokenizer.end()
    # The stop string that is complete first counts, with the text as it was then.
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    expected = text
    if ends:
        so_far = text[: min(ends)]
        expected = so_far[: min(at for stop in stops if (at := so_far.find(stop)) >= 0)]
    assert whole == expected
    assert detokenizer.stopped == bool(ends)


@pytest.mark.model
def test_pieces_of_the_default_model_make_the_whole_decoded_text(smollm2):
    for text in ("The café – naïve, 東京 and 🙂🙃.\n\n  Indented; it's  twice.", " leading", "🙂" * 9):
        ids = smollm2.encode([text])[0]
        assert "".join(pieces_of(smollm2.tokenizer, ids)) == smollm2.tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", [lambda tokenizer: tokenizer, WithoutStream], ids=["fast", "slow"])
def test_a_text_that_follows_another_keeps_its_first_space(kind):
    tokenizer = spaced_tokenizer()
    prompt, whole = tokenizer("it was")["input_ids"], tokenizer("it was the")["input_ids"]
    new, codec = whole[len(prompt) :], Codec(kind(tokenizer), len(tokenizer), "spaced")
    for before, expected in (((), "the"), (prompt, " the")):
        detokenizer = Detokenizer(codec, before=before)
        assert "".join([*map(detokenizer.add, new), detokenizer.end()]) == expected


@TOKENIZERS
def test_a_special_token_stops_the_text_as_a_token(tokenizer):
    (end,) = (TOKENIZER.convert_tokens_to_ids(TOKENIZER.eos_token),)
    detokenizer = Detokenizer(codec_of(tokenizer), [TOKENIZER.eos_token, "zz"])
    # The z may begin a stop string, so it is held back until the special token ends the text.
    pieces = [detokenizer.add(token) for token in [*ids_of("abz"), end, *ids_of("c")]]
    assert "".join(pieces) == "abz"
    assert detokenizer.stopped
    assert detokenizer.end() == ""
