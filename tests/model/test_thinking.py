"""The thinking part: found in the text whatever its tokens are, and opened by a template or by the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from lmsteer.data.chats import Chat, Message
from lmsteer.errors import DataError
from lmsteer.model.thinking import Marks, begins_thinking, thinking_of
from tiny import CHATML, THINKING, chat_lm

MARKS = Marks("<think>", "</think>")
PIECES = ["<", "<th", "<think>", "</think>", "/think>", "ink>", ">", "think", "a", "</", "<<think>"]


def is_inside(text):
    """Whether a text ends inside, found by looking for the marks in turn."""
    inside, rest = False, text
    while (MARKS.closes if inside else MARKS.opens) in rest:
        rest = rest.partition(MARKS.closes if inside else MARKS.opens)[2]
        inside = not inside
    return inside


@pytest.fixture(scope="module")
def lm():
    return chat_lm(THINKING, PIECES)


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_the_marks_are_found_however_a_text_is_cut_into_tokens(lm, pieces):
    thinking, vocabulary = thinking_of(lm), lm.tokenizer.get_vocab()
    state = thinking.state_after(False, [vocabulary[piece] for piece in pieces])
    assert (state >= thinking.first_inside) == is_inside("".join(pieces))
    assert state == MARKS.after(0, "".join(pieces))


def test_the_state_after_a_long_text_takes_few_looks_at_the_table(lm):
    class Counting(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.calls += 1
            return function(*args, **(kwargs or {}))

    thinking, vocabulary = thinking_of(lm), lm.tokenizer.get_vocab()
    tokens = [vocabulary[piece] for piece in ("<think>", *"a" * 1000, "</", "think", ">", "a")]
    with Counting() as counting:
        states = [thinking.state_after(False, tokens[:length]) for length in (0, 1, 1001, len(tokens))]
    assert [state >= thinking.first_inside for state in states] == [False, True, True, False]
    assert counting.calls < 40


@pytest.mark.parametrize(
    ("tail", "opens"),
    [("<think>\n", True), ("", False), ("<think>\n\n</think>\n\n", False), ("[THINK]", True)],
)
def test_a_template_may_open_the_thinking_part(tail, opens):
    close = "[/THINK]" if "[" in tail else "</think>"
    template = CHATML.replace("assistant\n{% endif %}", f"assistant\n{tail}{{% endif %}}{{# {close} #}}")
    chat = Chat((Message("user", "<think> aloud"), Message("assistant", "</think> no"), Message("user", "<think>")))
    assert begins_thinking(chat_lm(template), chat, {"answer"}) == opens


def test_what_has_no_thinking_part_is_refused():
    assert not begins_thinking(chat_lm(), "hello", set())
    with pytest.raises(DataError, match="the whole text is the answer: leave @answer and @thinking out"):
        begins_thinking(chat_lm(), Chat.of_user("hello"), {"answer"})
    with pytest.raises(DataError, match="a plain prompt"):
        begins_thinking(chat_lm(THINKING), "hello", {"thinking"})
    closed = chat_lm(CHATML.replace("assistant\n{% endif %}", "assistant\n<think></think>{% endif %}"))
    assert not begins_thinking(closed, Chat.of_user("hello"), {"answer"})
    with pytest.raises(DataError, match="no token for @thinking to act on"):
        begins_thinking(closed, Chat.of_user("hello"), {"answer", "thinking"})
