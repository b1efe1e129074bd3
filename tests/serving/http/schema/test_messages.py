"""Messages as clients keep them in their histories."""

import pytest

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
GREEDY = {"temperature": 0, "max_tokens": 3}
HISTORY = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "It was"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "And"},
]


@pytest.fixture
def chat(client, llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", TEMPLATE)
    return lambda messages: client.post("/v1/chat/completions", json={"messages": messages, **GREEDY})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "bob"},
        {"id": "msg-1", "metadata": {"a": 1}, "cache_control": {"type": "ephemeral"}},
        {"annotations": [], "tool_calls": [], "refusal": None, "audio": None, "function_call": None, "parsed": None},
        {"annotations": [{"type": "url_citation"}]},
        {"tool_calls": None, "function_call": None, "provider_specific_fields": {"refusal": None}},
        {"reasoning_content": "Let me think.", "reasoning": "Let me think.", "reasoning_details": [{}]},
        {"thinking_blocks": [], "images": [], "prefix": False, "tool_call_id": "x"},
    ],
)
def test_fields_of_no_effect_are_accepted(chat, fields):
    with_fields = [{**message, **fields} for message in HISTORY]
    assert chat(with_fields).json().get("choices") == chat(HISTORY).json()["choices"], chat(with_fields).text


@pytest.mark.parametrize("part", [{}, {"cache_control": {"type": "ephemeral"}}, {"annotations": [], "id": "p"}])
def test_parts_of_a_text_may_say_how_they_are_cached(chat, part):
    parts = [{**message, "content": [{"type": "text", "text": message["content"], **part}]} for message in HISTORY]
    assert chat(parts).json().get("choices") == chat(HISTORY).json()["choices"], chat(parts).text


@pytest.mark.parametrize("empty", [{"content": None}, {}, {"content": ""}, {"content": None, "tool_calls": []}])
def test_answer_without_a_text_is_an_empty_one(chat, empty):
    history = [*HISTORY[:2], {"role": "assistant", **empty}, HISTORY[3]]
    plainly = [*HISTORY[:2], {"role": "assistant", "content": ""}, HISTORY[3]]
    assert chat(history).json()["choices"] == chat(plainly).json()["choices"]


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ({}, "messages: must be an array, not {}."),
        ("hello", 'messages: must be an array, not "hello".'),
        ([], "messages: must have at least 1 entry, not 0."),
        (["hello"], 'messages.0: must be an object with role and content, not "hello".'),
        ([{"role": "user"}], "messages.0.content: is missing."),
        ([user(None)], "messages.0.content: is missing."),
        ([user(5)], "messages.0.content: must be a string or an array of parts, not 5."),
        ([user({"type": "text"})], 'messages.0.content: must be a string or an array of parts, not {"type": "text"}.'),
        ([user([])], "messages.0.content: must have at least 1 entry, not 0."),
        ([user(["a"])], 'messages.0.content.0: must be an object, not "a" (in an array of parts).'),
        ([user([{"type": "text"}])], "messages.0.content.0.text: is missing."),
        ([user([{"type": "text", "text": 5}])], "messages.0.content.0.text: must be a string, not 5."),
        ([user([{"type": "text", "text": "a", "x": 5}])], "messages.0.content.0.x: unknown field."),
        ([{"content": "a"}], "messages.0.role: is missing."),
        ([{"role": 5, "content": "a"}], "messages.0.role: must be one of 'system', 'developer', 'user', 'assistant',"),
        ([{"role": "human", "content": "a"}], "messages.0.role: must be one of 'system', 'developer',"),
        ([{"role": ["user"], "content": "a"}], "messages.0.role: must be one of 'system', 'developer',"),
        (
            [user("a"), {"role": "tool", "tool_call_id": "x", "content": "a"}],
            "messages.1.role: this server calls no tools",
        ),
        ([{"role": "function", "name": "f", "content": "a"}], "messages.0.role: this server calls no tools"),
        (
            [user("a"), {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}],
            'messages.1.tool_calls: [{"id": "x"}] is not supported: leave the field out, or send []. This server calls',
        ),
        ([{**user("a"), "opts": 1}], "messages.0.opts: unknown field."),
        ([{"role": "assistant", "content": None, "refusal": "No."}], 'messages.0.refusal: "No." is not supported'),
    ],
)
def test_error_says_which_message_is_wrong_and_how(chat, messages, message):
    answer = chat(messages)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
    assert answer.json()["error"]["param"] == message.partition(":")[0]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "video_url", "video_url": {"url": "http://a"}},
        {"type": "refusal", "refusal": "No."},
    ],
    ids=lambda part: part["type"],
)
def test_part_that_is_no_text_is_refused_as_such(chat, part):
    answer = chat([user([{"type": "text", "text": "What is this?"}, part])])
    assert answer.status_code == 400
    expected = f"this model reads text only: a part has the type 'text', not \"{part['type']}\"."
    assert answer.json()["error"]["message"] == f"messages.0.content.1.type: {expected}"
