"""Texts after prompts: their rows are those of the whole at the text's places, and only those."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmsteer.data.chats import Chat
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.reading.encode import encode
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable, ids_digest
from lmsteer.reading.hidden_rows import compute_rows
from lmsteer.reading.prompted import encode_after
from lmsteer.reading.rows import AFTER_PROMPT
from tiny import chat_lm, spaced_tokenizer, tiny_lm

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def lm():
    return chat_lm()


@settings(max_examples=20)
@example([("Well?", " Good."), (Chat.of_user("Well?"), "Good."), ("", "Good.")])
@given(st.lists(st.tuples(st.one_of(WORDS, WORDS.map(Chat.of_user)), WORDS), min_size=1, max_size=4))
def test_the_rows_of_a_text_are_those_of_its_places_in_the_whole(lm, pairs):
    texts = [LabelledText(text, 1.0, prompt) for prompt, text in pairs]
    encoded = encode_labelled(lm, texts)
    rows = compute_rows(lm, encoded)
    for number, (ids, text) in enumerate(zip(encoded, texts, strict=True)):
        own = rows.text == number
        begin = max(ids.begin, 1)
        h = lm.hidden_states(torch.tensor([[*ids]]), torch.ones(1, len(ids), dtype=torch.int64))[0]
        assert rows.target[own].tolist() == [*ids[begin:]]
        torch.testing.assert_close(rows.h[own], h[begin - 1 : -1], rtol=1e-3, atol=1e-4)  # alone, and in a batch
        r, log_p = lm.head.residuals(h[begin - 1 : -1], torch.tensor(ids[begin:]))
        torch.testing.assert_close(rows.r[own], r, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(rows.log_p[own], log_p, rtol=1e-3, atol=1e-4)
        assert rows.is_end[own].tolist() == [*[False] * (len(ids) - begin - 1), True]
        assert rows.first[own][0] == (ids[0] if text.before is None else AFTER_PROMPT)
        if text.before is not None:
            assert lm.codec.decode(ids[ids.begin : -1], skip_special=False) == text.text


def test_a_token_on_both_sides_of_the_border_is_the_texts():
    lm, tokenizer = tiny_lm("llama"), spaced_tokenizer()
    lm.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    spaced = replace(lm, tokenizer=tokenizer)
    whole = encode(spaced, ["a that"], start=False, end=True)[0]
    tokens = spaced.tokenizer.convert_ids_to_tokens(whole)
    assert tokens == ["<s>", "▁", "a", "▁t", "h", "a", "t", "</s>"] or tokens[3] == "▁t"
    for prompt, text, own in (("a", " that", "▁t"), ("a ", "that", "▁t"), ("a t", "hat", "h")):
        (found,) = encode_after(spaced, [prompt], [text])
        assert [*found] == whole
        assert tokens[found.begin].startswith(own)


def test_a_chat_that_the_template_refuses_is_told_with_its_text():
    lm = chat_lm("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(DataError, match=r"text 2, 'fine': the chat template refuses these messages: Roles must alter"):
        encode_after(lm, ["a", Chat.of_user("b")], ["good", "fine"])


def test_texts_after_prompts_are_cut_without_their_prompts(lm, capsys):
    room = lm.max_length - 60
    texts = [LabelledText("x" * length, 1.0, "y" * 60) for length in (5, 20, room, room + 5)]
    with pytest.raises(DataError, match=r"2 texts .* the first of them text 3, 'x+\.\.\.': its prompt has 60 tokens"):
        encode_labelled(lm, texts)
    cut = encode_labelled(lm, texts, 10)
    assert [(len(ids) - ids.begin, ids.is_ended) for ids in cut] == [(6, True), *[(10, False)] * 3]
    assert "cut" not in capsys.readouterr().err
    assert [len(ids) for ids in encode_labelled(lm, texts, room + 50)][2:] == [lm.max_length] * 2
    assert f"2 of 4 texts are cut by the model's context of {lm.max_length} tokens" in capsys.readouterr().err


def test_a_pair_of_which_a_text_has_no_token_left_is_left_out(lm, capsys):
    texts = [LabelledText("a", 1.0, "y" * (lm.max_length + 1), "one"), LabelledText("b", -1.0, "y", "one")]
    readable, ids = encode_readable(lm, [*texts, LabelledText("c", 1.0, "y", "two")], 10)
    assert [text.text for text in readable] == ["c"]
    assert len(ids) == 1
    told = f"2 of 3 texts are left out: the prompts of 1 fill the model's context of {lm.max_length} tokens."
    assert told in capsys.readouterr().err


def test_where_a_text_begins_is_part_of_what_is_known_of_it(lm):
    alone, after, later = (
        encode_labelled(lm, [text])
        for text in (LabelledText("abc", 1.0), LabelledText("bc", 1.0, "a"), LabelledText("c", 1.0, "ab"))
    )
    assert [*alone[0]] == [*after[0]] == [*later[0]]
    assert len({ids_digest(ids) for ids in (alone, after, later)}) == 3
    assert ids_digest(alone) == ids_digest([[*alone[0]]])
