"""OpenAI's own client: what it sends by itself, and whether it can read every answer."""

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
GREEDY = {"temperature": 0, "max_tokens": 4}
SAID = [{"role": "user", "content": "It was"}]


@pytest.fixture
def ask(openai, llama):
    """Asks for a chat."""

    def chat(messages, **options):
        return openai.chat.completions.create(model=llama.name, messages=messages, **{**GREEDY, **options})

    return chat


def test_answers_have_all_fields_and_types_of_openai(client, openai, llama):
    """The client reads leniently; this reads strictly."""
    for kind, path, asked in (
        (Completion, "completions", {"prompt": "It was", "logprobs": 2}),
        (ChatCompletion, "chat/completions", {"messages": SAID, "logprobs": True, "top_logprobs": 2}),
    ):
        for fields in (asked, {"prompt": "It was"} if kind is Completion else {"messages": SAID}):
            found = client.post(f"/v1/{path}", json={**fields, **GREEDY, "n": 2}).json()
            kind.model_validate(found, strict=True)
            assert {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"} <= found.keys()
            for choice in found["choices"]:
                assert {"index", "finish_reason", "logprobs"} <= choice.keys()
                assert choice.get("message", {"refusal": None}).keys() >= {"refusal"}
    (model,) = client.get("/v1/models").json()["data"]
    Model.model_validate(model, strict=True)
    Model.model_validate(client.get(f"/v1/models/{llama.name}").json(), strict=True)
    assert [each.id for each in openai.models.list()] == [llama.name]
    assert openai.models.retrieve("style@2").id == "style@2"


def test_a_history_as_the_client_returns_it_can_be_sent_back(ask):
    messages = list(SAID)
    for dumped in ({}, {"exclude_none": True}, {"exclude_unset": True}):
        answer = ask(messages, n=2).choices[0].message
        messages += [answer.model_dump(**dumped), {"role": "user", "content": "And", "name": "bob"}]
        messages += [answer, {"role": "user", "content": [{"type": "text", "text": "then?"}]}]
    plain = [each if isinstance(each, dict) else each.model_dump() for each in messages]
    plain = [{"role": each["role"], "content": each["content"]} for each in plain]
    assert ask(messages).choices == ask(plain).choices


def test_all_that_the_client_can_say_without_asking_for_anything(ask):
    said = ask(
        SAID,
        frequency_penalty=0,
        function_call="none",
        functions=[],
        logit_bias={},
        logprobs=False,
        metadata={"run": "7"},
        modalities=["text"],
        n=1,
        parallel_tool_calls=False,
        presence_penalty=0,
        prompt_cache_key="k",
        reasoning_effort="none",
        response_format={"type": "text"},
        safety_identifier="s",
        service_tier="auto",
        stop=None,
        store=False,
        stream=False,
        tool_choice="none",
        tools=[],
        top_logprobs=0,
        user="u",
        verbosity="medium",
        extra_body={"min_p": 0, "top_k": -1, "repetition_penalty": 1.0, "ignore_eos": False, "guided_json": None},
    )
    assert said.choices == ask(SAID).choices


def test_steers_go_into_the_extra_body(ask):
    answer = ask(SAID, extra_body={"steers": {"style": 2.5}})
    assert answer.steers == {"style": 2.5}
    assert answer.choices != ask(SAID).choices


def test_raw_response_has_the_headers(openai):
    raw = openai.chat.completions.with_raw_response.create(model="style@2.5", messages=SAID, **GREEDY)
    assert raw.headers["x-lmsteer-steers"] == "style=2.5"
    assert raw.parse().choices[0].message.role == "assistant"
    with openai.chat.completions.with_streaming_response.create(model="style@2.5", messages=SAID, **GREEDY) as answer:
        assert answer.status_code == 200


def test_chunks_have_all_fields_and_types_of_openai(ask):
    chunks = list(ask(SAID, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
        assert chunk.object == "chat.completion.chunk"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    whole = ask(SAID)
    assert chunks[-1].usage == whole.usage
    assert "".join(each.choices[0].delta.content for each in chunks[:-1]) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1


def test_helper_of_streams_builds_the_whole_answer(openai, llama):
    options = {"seed": 5, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    text = openai.chat.completions.create(model=llama.name, messages=SAID, **options).choices[0].message.content
    options["stop"] = text[5]
    with openai.chat.completions.stream(model=llama.name, messages=SAID, **options) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    whole = openai.chat.completions.create(model=llama.name, messages=SAID, **options)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert final.choices[0].logprobs.content == whole.choices[0].logprobs.content
    assert {"chunk", "content.delta", "content.done", "logprobs.content.done"} <= {*events}
    history = [*SAID, final.choices[0].message, *SAID]
    assert openai.chat.completions.create(model=llama.name, messages=history, **GREEDY).choices


def test_refusals_reach_the_caller_with_the_field(ask):
    with pytest.raises(BadRequestError) as caught:
        ask(SAID, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert caught.value.param == "tools"
    assert "This server calls no tools." in caught.value.message
    with pytest.raises(NotFoundError, match="this server serves"):
        ask(SAID, extra_body={"model": "gpt-9"})


def test_base_url_without_v1_is_told(client, llama):
    wrong = OpenAI(base_url="http://testserver", api_key="none", http_client=client, max_retries=0)
    with pytest.raises(NotFoundError, match=r"did you mean /v1/completions \(the base URL of a client ends in /v1\)"):
        wrong.completions.create(model=llama.name, prompt="a")
