import threading

import pytest
from fastapi.testclient import TestClient

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.engine import EngineConfig
from lmsteer.serving.engine.requests import Request
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.middleware import is_key
from lmsteer.serving.http.run import ServerSettings, ServiceConfig, create_service, serve
from lmsteer.serving.http.service import RequestLimits, Service
from lmsteer.serving.registry import SteerRegistry
from lmsteer.serving.starts.named import NamedStarts
from lmsteer.steer.mix import Mix

GREEDY = {"temperature": 0, "max_tokens": 8}


def test_strengths_outside_the_safe_range_give_a_warning_or_an_error(serving, llama, steers):
    body = {"prompt": "It was", "steers": {"style": 5}, **GREEDY}
    with serving(llama, steers) as client:
        warned = client.post("/v1/completions", json=body)
    assert "outside the safe range" in warned.headers["x-lmsteer-warning"]
    assert warned.json()["warnings"]
    with serving(llama, steers, strict=True) as client:
        refused = client.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "outside_safe_range"


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"steers": {"nobody": 1}}, 400, "steers", "unknown steer 'nobody'; known steers: other, style"),
        ({"steers": {"../style": 1}}, 400, "steers", "unknown steer"),
        ({"steers": {"style": "high"}}, 400, "steers", "cannot read"),
        ({"steers": {"style": "1,2"}}, 400, "steers", "exactly one strength"),
        ({"steers": {"style": 1e39}}, 400, "steers", "cannot read"),
        (
            {"steers": {"style": ",".join("1" * 2000), "other": ",".join("1" * 2000)}},
            400,
            "steers",
            "exactly one strength",
        ),
        ({"steers": "style"}, 400, "steers", "cannot read"),
        ({"steers": {"style": None}}, 400, "steers", ""),
        ({"prompt": {"a": 1}}, 400, "prompt", ""),
        ({"steers": {"other": "50%"}}, 400, "steers", "no safe range"),
        ({"steers": {"style": 1}, "model": "style@1"}, 400, "steers", "use one of them"),
        ({"model": "gpt-9"}, 404, "model", "unknown model 'gpt-9'"),
        ({"prompt": ""}, 400, "prompt", "empty"),
        ({"prompt": []}, 400, "prompt", ""),
        (
            {"prompt": [5, 400]},
            400,
            "prompt",
            "the prompt has the token id 400, but the ids of tiny-llama are 0 to 258",
        ),
        ({"max_tokens": 0}, 400, "max_tokens", "1 or more"),
        ({"max_tokens": 100_000}, 400, "max_tokens", "exceeds the context"),
        ({"temperature": -1}, 400, "temperature", ""),
        ({"n": 40, "prompt": ["a", "b"]}, 400, "n", "choices are too many"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", ""),
        ({"best_of": 3}, 400, "best_of", "3 is not supported: leave the field out, or send 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "calls no tools"),
        ({"logit_bias": {"5": 1.0}}, 400, "logit_bias", "not supported"),
        ({"steers": {"a" * 300: 1}}, 400, "steers", "unknown steer"),
        ({"steers": {f"s{k}": 1 for k in range(65)}}, 400, "steers", "at most 64 steers"),
        ({"steers": " , "}, 400, "steers", "cannot read"),
        ({"echo": "yes"}, 400, "echo", ""),
    ],
)
def test_invalid_request_is_refused_with_the_field_at_fault(client, body, status, param, message):
    answer = client.post("/v1/completions", json={"prompt": "It was", **body})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["param"].split(".")[0] == param
    assert message in error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"top_logprobs": 2}, "top_logprobs: needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options: needs stream"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
        ({"response_format": {"type": "json_object"}}, "cannot force a format"),
    ],
)
def test_field_without_effect_is_refused(client, body, message):
    said = {"messages": [{"role": "user", "content": "It was"}], **body}
    answer = client.post("/v1/chat/completions", json=said)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("neutral", [{"best_of": 1}, {"logit_bias": {}}, {"presence_penalty": 0}], ids=repr)
def test_neutral_value_is_accepted(client, neutral):
    assert client.post("/v1/completions", json={"prompt": "It was", **GREEDY, **neutral}).status_code == 200


def test_lone_surrogate_is_refused(client):
    content = b'{"prompt": "It \\ud800"}'
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "half of a character" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt":', "the body is not valid JSON: Expecting value, at character 10."),
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"[]", "the body must be a JSON object, not []."),
        (b"17", "the body must be a JSON object, not 17."),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"prompt": "sch\xf6n"}', "the body is not valid JSON: it is not UTF-8, at byte 15."),
        (b"[" * 5000, "the body is nested too deeply"),
        (b'{"prompt": "a", "metadata": ' + b"[" * 5000, "the body is nested too deeply"),
        (b'{"prompt": "a", "tools": ' + b"[" * 900 + b"]" * 900 + b"}", "tools: [[[[[[[["),
        (
            b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
            "the body holds a number of thousands of digits: send one of at most 4,300.",
        ),
        (b'{"prompt": "a", "seed": ' + b"9" * 4000 + b"}", "seed: must be at most 9223372036854775807"),
        (b'{"prompt": "a", "max_tokens": 1e300}', "max_tokens: must be at most"),
        (b'{"prompt": "a", "temperature": 1' + b"0" * 400 + b"}", "temperature: must be a number"),
        (b'{"prompt": "a", "prompt": "b"}', 'the field "prompt" is there twice'),
        (b'{"prompt": "a", "steers": {"style": 1, "style": 2}}', 'the field "style" is there twice'),
        (b'{"prompt": "a", "metadata": {"\\ud800": 1}}', "half of a character"),
        (b'{"prompt": "a", "\\udfff": 1}', "half of a character"),
        (b'{"\\udfff": 1, "\\udfff": 1}', "is there twice"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_malformed_body_is_refused(client, content, message):
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_large_body_is_refused(client):
    answer = client.post("/v1/completions", json={"prompt": "a" * 20_000})
    assert answer.status_code == 413
    assert "10,000 bytes" in answer.json()["error"]["message"]


def test_requests_without_a_valid_key_are_refused(serving, llama, steers):
    with serving(llama, steers, keys=["one", "two"]) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_key_may_have_any_characters():
    assert is_key("schlüssel".encode(), ["key", "schlüssel"])
    assert not is_key("schlüssel".encode("latin-1"), ["schlüssel"])


def test_full_queue_gives_429_with_retry_after(serving, endless, steers):
    with serving(endless, steers, engine=EngineConfig(max_num_seqs=1, max_queue=0)) as client:
        running = threading.Event()
        long = Request([5], max_new_tokens=30_000)
        (sequence,) = client.app.state.service.engine.submit([long], lambda *_: running.set())
        assert running.wait(30)
        response = client.post("/v1/completions", json={"prompt": "a"})
        sequence.cancel()
    assert response.status_code == 429
    assert response.headers["retry-after"]


def test_text_cut_by_the_timeout_has_a_warning(engines, endless):
    made = []
    engine = engines(endless, clock=lambda: float(made[0].steps) if made else 0.0)
    made.append(engine)
    limits = RequestLimits(max_model_len=4096, timeout=5.0)
    service = Service(engine, SteerRegistry([], lambda _: None), NamedStarts(endless), limits, endless.name)
    with TestClient(create_app(service)) as client:
        body = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2_000}).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5
    assert "timed out" in body["warnings"][0]


def test_empty_key_is_refused(serving, llama, steers):
    with serving(llama, steers, keys=["one"]) as client:
        assert client.get("/v1/models", headers={"Authorization": "Bearer "}).status_code == 401
    service = create_service(llama, ServiceConfig(folders=[steers]))
    with pytest.raises(LMSteerError, match="empty"):
        serve(service, ServerSettings(keys=["one", ""]))
    service.engine.close()


def test_a_server_within_a_steered_block_is_refused(llama, steers):
    service = create_service(llama, ServiceConfig(folders=[steers]))
    with llama.steered(Mix({}, {})), pytest.raises(LMSteerError, match="each request names"):
        serve(service)
    service.engine.close()


def test_failed_step_gives_500_and_the_server_goes_on(serving, llama, steers, monkeypatch):
    with serving(llama, steers) as client:
        monkeypatch.setattr(llama.head.module, "forward", lambda *_: 1 / 0)
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "step_failed"
        monkeypatch.undo()
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_stopped_server_gives_503(llama, steers):
    service = create_service(llama, ServiceConfig(folders=[steers]))
    with TestClient(create_app(service)) as client:
        service.engine.close()
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert client.get("/health").status_code == 503
