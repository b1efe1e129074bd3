"""Values that ask for nothing are accepted and change nothing; all others are refused by name and value."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema_rs import is_valid
from pydantic import ValidationError

from lmsteer.serving.http.schema.body import describe
from lmsteer.serving.http.schema.neutral import Neutral, NeutralFields
from lmsteer.serving.http.schema.requests import ChatRequest, CompletionRequest

ASKED = {
    "/v1/completions": {"prompt": "It was", "temperature": 0, "max_tokens": 2},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "It was"}],
        "temperature": 0,
        "max_tokens": 2,
    },
}
BODIES = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest}


def neutral_of(body, name):
    """What makes the values of a field neutral."""
    (neutral,) = [each for each in body.model_fields[name].metadata if isinstance(each, Neutral)]
    return neutral


@pytest.fixture
def chat_client(client, llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return client


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=5)
KINDS = {
    "boolean": st.booleans(),
    "number": st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "array": st.lists(JSON, max_size=3),
    "object": st.dictionaries(st.text(max_size=9), JSON, max_size=3),
}


@st.composite
def neutral_fields(draw):
    """Some fields, each with a value that asks for nothing."""
    names = draw(st.lists(st.sampled_from(sorted(NeutralFields.model_fields)), min_size=5, max_size=25, unique=True))
    fields = {}
    for name in names:
        neutral = neutral_of(NeutralFields, name)
        fields[name] = draw(
            st.one_of(st.sampled_from([*neutral.values, None]), *(KINDS[kind] for kind in neutral.any_of))
        )
    return fields


@pytest.mark.parametrize("path", ASKED)
def test_bodies_with_any_neutral_fields_get_the_same_answer(chat_client, path):
    plain = chat_client.post(path, json=ASKED[path]).json()["choices"]

    @given(neutral_fields())
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(fields):
        answer = chat_client.post(path, content=json.dumps({**fields, **ASKED[path]}))
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"] == plain

    check()


def test_openapi_says_which_values_are_neutral(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    values = [None, True, False, 0, 0.0, 1, -1, 0.5, "", "a", "none", "auto", [], ["text"], {}, {"type": "text"}]
    for body in BODIES.values():
        schema = schemas[body.__name__]
        assert is_valid(schema["additionalProperties"], None)
        assert not is_valid(schema["additionalProperties"], 1)
        for name in NeutralFields.model_fields:
            accepts = neutral_of(body, name).accepts
            assert [is_valid(schema["properties"][name], value) for value in values] == [
                value is None or accepts(value) for value in values
            ], name


@pytest.mark.parametrize("path", ASKED)
def test_all_neutral_values_are_accepted_at_once(chat_client, path):
    samples = {"boolean": True, "number": 0.5, "string": "a", "array": [{}], "object": {"a": [1]}}
    fields = {}
    for name in NeutralFields.model_fields:
        neutral = neutral_of(NeutralFields, name)
        fields[name] = [*neutral.values, *(samples[kind] for kind in neutral.any_of), None][0]
    plain = chat_client.post(path, json=ASKED[path]).json()["choices"]
    assert chat_client.post(path, json={**fields, **ASKED[path]}).json()["choices"] == plain


@pytest.mark.parametrize("path", ASKED)
def test_all_other_values_are_refused_by_name_and_value(path):
    others = [True, False, 0.37, -17, "another", ["another"], {"another": 1}]
    for name in sorted({*NeutralFields.model_fields} - {*ASKED[path]}):
        neutral = neutral_of(BODIES[path], name)
        refused = [value for value in others if not neutral.accepts(value)]
        assert refused
        for value in refused:
            with pytest.raises(ValidationError) as caught:
                BODIES[path](**{**ASKED[path], name: value})
            field, reason = describe(caught.value.errors()[0])
            assert field == name
            assert reason.startswith(f"{json.dumps(value)} is not supported: leave the field out")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "or send []. This server calls no tools."),
        ({"tool_choice": "required"}, 'tool_choice: "required" is not supported: leave the field out, or send "none"'),
        ({"min_p": 0.05}, "min_p: 0.05 is not supported: leave the field out, or send 0."),
        ({"min_p": False}, "min_p: false is not supported"),
        ({"service_tier": "flex"}, 'or send "auto" or "default".'),
        ({"response_format": {"type": "json_object"}}, "This server cannot force a format of the text."),
        ({"do_sample": False}, "set temperature to 0"),
        ({"vllm_xargs": {"steers": "style=1"}}, "'steers' is a field of the body"),
        ({"extra_body": {"steers": {"style": 1}}}, "Its fields belong into the body itself."),
        ({"modalities": ["text", "audio"]}, "This model writes text only."),
        ({"guided_json": {"type": "object"}}, "leave the field out. This server cannot force a format"),
        ({"best_of": 1.5}, "best_of: 1.5 is not supported: leave the field out, or send 1."),
        ({"chat_template_kwargs": {"enable_thinking": False}}, '{"enable_thinking": false} is not supported'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusal_says_what_is_possible(client, field, message):
    answer = client.post("/v1/completions", json={**ASKED["/v1/completions"], **field})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/completions", {"logprobs": False}),
        ("/v1/completions", {"top_logprobs": 0}),
        ("/v1/completions", {"add_special_tokens": True}),
        ("/v1/completions", {"top_k": -1}),
        ("/v1/completions", {"max_tokens": 2.0, "n": 1.0, "top_k": 0.0, "temperature": 0.0}),
        ("/v1/completions", {"stream_options": {"include_usage": False, "include_obfuscation": True}}),
        ("/v1/completions", {"stream_options": {}}),
        ("/v1/completions", {"min_p": 0.0, "repetition_penalty": 1, "length_penalty": 1.0}),
        ("/v1/completions", {"a_field_of_tomorrow": None}),
        ("/v1/chat/completions", {"max_tokens": None, "max_completion_tokens": 2}),
        ("/v1/chat/completions", {"max_completion_tokens": -1}),
        ("/v1/chat/completions", {"top_logprobs": 0, "logprobs": False, "echo": False}),
        ("/v1/chat/completions", {"add_special_tokens": False}),
        ("/v1/chat/completions", {"tools": [], "tool_choice": "none", "parallel_tool_calls": True}),
    ],
)
def test_fields_of_this_server_have_neutral_values_too(chat_client, path, field):
    plain = chat_client.post(path, json=ASKED[path]).json()["choices"]
    answer = chat_client.post(path, json={**ASKED[path], **field})
    assert answer.json().get("choices") == plain, answer.text


def test_minus_one_asks_a_chat_for_all_tokens_there_are(chat_client):
    service, chat = chat_client.app.state.service, ASKED["/v1/chat/completions"]
    (request,) = service.chat(ChatRequest(**{**chat, "max_tokens": -1})).requests
    assert len(request.ids) + request.max_new_tokens == service.limits.max_model_len


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tols", "'tools'"),
        ("maxTokens", "'max_tokens'"),
        ("max_new_tokens", "'max_tokens'"),
        ("n_predict", "'max_tokens'"),
        ("steer", "'steers'"),
        ("stop_sequences", "'stop'"),
        ("random_seed", "'seed'"),
    ],
)
def test_unknown_field_is_refused_with_the_one_that_was_meant(client, name, meant):
    answer = client.post("/v1/completions", json={**ASKED["/v1/completions"], name: 1})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert answer.json()["error"]["message"] == f"{name}: unknown field; did you mean {meant}?"


def test_unknown_field_like_no_other_is_refused_by_its_name(client):
    answer = client.post("/v1/completions", json={**ASKED["/v1/completions"], "x" * 5_000: 1})
    assert answer.json()["error"]["message"] == "x" * 60 + ": unknown field."


@pytest.mark.parametrize("value", ["", [], {}], ids=repr)
def test_unknown_field_that_is_empty_asks_for_nothing(chat_client, value):
    for path, fields in ASKED.items():
        plain = chat_client.post(path, json=fields).json()["choices"]
        assert chat_client.post(path, json={**fields, "a_field_of_tomorrow": value}).json()["choices"] == plain
        refused = chat_client.post(path, json={**fields, "a_field_of_tomorrow": [value]})
        assert refused.json()["error"]["message"] == "a_field_of_tomorrow: unknown field."


def test_body_of_the_other_path_is_told_as_such(chat_client):
    swapped = zip(ASKED, reversed(ASKED.values()), ("messages", "prompt"), ("prompt", "messages"), strict=True)
    for path, fields, sent, meant in swapped:
        message = chat_client.post(path, json=fields).json()["error"]["message"]
        assert message == f"{sent}: unknown field; did you mean {meant!r}?"
