"""OpenAI's Responses API, asked by OpenAI's own client."""

import json

import pytest
from openai import BadRequestError
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

GREEDY = {"temperature": 0, "max_output_tokens": 4}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def ask(openai, llama):
    """Asks for a response."""

    def respond(said, **options):
        return openai.responses.create(model=llama.name, input=said, **{**GREEDY, **options})

    return respond


@pytest.fixture
def chat(openai, llama):
    """The text of a chat with the same messages."""

    def text(messages, **options):
        options = {"temperature": 0, "max_tokens": 4, **options}
        found = openai.chat.completions.create(model=llama.name, messages=messages, **options)
        return found.choices[0].message.content

    return text


def said(text, role="user"):
    return {"role": role, "content": text}


def test_answer_has_all_fields_and_types_of_openai(client, openai):
    """The client reads leniently; this reads strictly."""
    for fields in ({}, LOGPROBS, {"instructions": "Be kind."}, {"max_output_tokens": 1}):
        found = client.post("/v1/responses", json={"input": "It was", **GREEDY, **fields}).json()
        Response.model_validate(found, strict=True)
        assert found["status"] == "incomplete"
        assert found["incomplete_details"] == {"reason": "max_output_tokens"}
        assert found["usage"]["output_tokens"] == fields.get("max_output_tokens", 4)


def test_answer_is_that_of_a_chat(ask, chat):
    assert ask("It was").output_text == chat([said("It was")]) != ""
    with_system = ask([said("It was")], instructions="Be kind.")
    assert with_system.output_text == chat([said("Be kind.", "system"), said("It was")])
    assert with_system.instructions == "Be kind."
    steered = ask("It was", extra_body={"steers": {"style": 2.5}})
    assert steered.output_text == chat([said("It was")], extra_body={"steers": {"style": 2.5}})
    assert steered.steers == {"style": 2.5}
    assert steered.steered_tokens == steered.usage.output_tokens
    drawn = {"temperature": 1.3, "top_p": 0.8}
    others = {"extra_body": {"seed": 4, "top_k": 40, "steers": {"style": 4}, "plausible": 0.1, "fresh": 8, "kl": 0.5}}
    assert ask("It was", **drawn, **others).output_text == chat([said("It was")], **drawn, **others)
    whole = ask("It was", max_output_tokens=None, extra_body={"stop": ask("It was").output_text[2]})
    assert whole.status == "completed"
    assert whole.incomplete_details is None


def test_a_history_as_the_client_returns_it_can_be_sent_back(ask, chat):
    first = ask("It was", **LOGPROBS)
    parts = [{"type": "input_text", "text": "And "}, {"type": "input_text", "text": "then?"}]
    again = ask([said("It was"), *first.output, {"type": "message", **said(parts)}])
    assert again.output_text == chat([said("It was"), said(first.output_text, "assistant"), said("And then?")])


def test_stream_has_the_events_of_openai_and_the_text_of_the_whole_answer(ask):
    whole = ask("It was", **LOGPROBS)
    events = list(ask("It was", **LOGPROBS, stream=True))
    adapter = TypeAdapter(ResponseStreamEvent)
    for event in events:
        adapter.validate_json(json.dumps(event.model_dump(mode="json", warnings=False)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * deltas,
        *("output_text.done", "content_part.done", "output_item.done", "incomplete"),
    ]
    assert "".join(event.delta for event in events[4 : 4 + deltas]) == whole.output_text
    logprobs = [each.logprob for event in events[4 : 4 + deltas] for each in event.logprobs]
    assert logprobs == [each.logprob for each in whole.output[0].content[0].logprobs]
    final = events[-1].response
    assert final.output_text == events[4 + deltas].text == whole.output_text
    assert final.usage == whole.usage


def test_helper_of_streams_builds_the_whole_answer(openai, llama, chat):
    stop = chat([said("It was")])[2]
    body = {"stop": stop}
    with openai.responses.stream(model=llama.name, input="It was", temperature=0, extra_body=body) as stream:
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == chat([said("It was")], stop=stop, max_tokens=None)


def test_all_that_the_client_can_say_without_asking_for_anything(ask):
    found = ask(
        "It was",
        background=False,
        include=["reasoning.encrypted_content"],
        max_tool_calls=3,
        metadata={"run": "7"},
        parallel_tool_calls=True,
        previous_response_id=None,
        reasoning={"effort": "none"},
        service_tier="auto",
        store=False,
        stream_options={"include_obfuscation": False},
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tool_choice="auto",
        tools=[],
        truncation="disabled",
        user="u",
    )
    assert found.output_text == ask("It was").output_text


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools", "This server calls no tools."),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format", "cannot force a format"),
        ({"top_logprobs": 2}, "top_logprobs", "needs 'message.output_text.logprobs' in include"),
        ({"include": ["everything"]}, "include.0", "must be 'message.output_text.logprobs'"),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "exceeds the context"),
        ({"max_tokens": 5}, "max_tokens", "did you mean 'max_output_tokens'?"),
        ({"messages": [{}]}, "messages", "did you mean 'input'?"),
        ({"n": 2}, "n", "must be at most 1, not 2"),
        ({"input": []}, "input", "must have at least 1 entry"),
        ({"input": 5}, "input", "must be a string or an array of messages"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "o"}]},
            "input.0.type",
            "this server reads messages alone",
        ),
        (
            {"input": [said([{"type": "input_image", "image_url": "http://a"}])]},
            "input.0.content.0.type",
            "reads text only",
        ),
        ({"steers": {"nobody": 1}}, "steers", "unknown steer"),
    ],
)
def test_refusals_reach_the_caller_with_the_field(ask, fields, param, message):
    with pytest.raises(BadRequestError) as caught:
        ask("It was", extra_body=fields)
    assert caught.value.param == param
    assert message in caught.value.message


def test_model_without_a_template_is_refused_with_the_field(client):
    error = client.post("/v1/responses", json={"input": "It was"}).json()["error"]
    assert error["param"] == "input"


def test_error_in_a_stream_ends_it_with_the_failed_response(ask, llama, monkeypatch):
    monkeypatch.setattr(llama.head.module, "forward", lambda *_: 1 / 0)
    *_, last = ask("It was", stream=True)
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error.code == "server_error"
    assert last.response.error.message


def test_tokens_of_a_prompt_that_were_kept_are_counted(openai):
    said = [{"role": "user", "content": "How was the hotel by the sea?"}]
    fields = {"model": "tiny-llama", "temperature": 0}
    first, again = (openai.chat.completions.create(messages=said, max_tokens=2, n=2, **fields) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1  # the last one is read
    response = openai.responses.create(input=said, max_output_tokens=2, **fields)
    assert response.usage.input_tokens_details.cached_tokens == response.usage.input_tokens - 1
    stream = openai.completions.create(
        prompt=["[user] How was the hotel by the lake?", "A bc"],
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
        **fields,
    )
    *_, last = stream
    assert last.usage.prompt_tokens_details.cached_tokens == len("[user] How was the hotel by the ")
