"""Chats: messages are read as every program writes them, and what is no message is refused with its place."""

import pytest

from lmsteer.data.chats import Chat, Message, as_prompt, read_chat
from lmsteer.errors import DataError

HELLO = Chat((Message("user", "Hello."),))


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "user", "content": "Hello."}],
        ({"role": "user", "content": "Hello.", "name": None, "tool_calls": []},),
        [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]}],
        [Message("user", "Hello.")],
    ],
)
def test_messages_are_read(value):
    assert read_chat("x.jsonl, line 3", "messages", value) == HELLO == as_prompt(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "line 3: the messages has no messages"),
        ("Hello.", "the messages is str, not a list of messages; write"),
        ({"role": "user", "content": "a"}, "the messages is dict, not a list"),
        (["Hello."], "line 3: message 1 of the messages is no object"),
        ([{"from": "human", "value": "a"}], "message 1 of the messages has 'from', 'value'; a message is"),
        ([*HELLO.messages, {"role": "bot", "content": "a"}], "message 2 of the messages has the role 'bot'; the roles"),
        ([{"role": "tool", "content": "a"}], "the role 'tool'"),
        ([{"role": ["user"], "content": "a"}], r"the role \['user'\]"),
        ([{"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}], "has tool_calls"),
        ([{"role": "user", "content": None}], "message 1 of the messages: the content is missing"),
        ([{"role": "user", "content": 3}], "a content that is int"),
        ([{"role": "user", "content": "\ud800"}], "half of a surrogate pair"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "a part of type 'image'"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(value, message):
    with pytest.raises(DataError, match=message):
        read_chat("x.jsonl, line 3", "messages", value)


def test_an_instruction_goes_to_the_system_message():
    assert HELLO.instructed("Be short. ") == Chat.of_user("Hello.", "Be short.")
    assert Chat.of_user("Hello.", "You help.").instructed("Be short.") == Chat.of_user("Hello.", "Be short.\nYou help.")
    assert str(Chat.of_user("Hello.", "You help.")) == "system: You help.\nuser: Hello."
