import threading

import pytest
from fastapi.testclient import TestClient

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.engine import EngineConfig
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.middleware import is_key
from lmsteer.serving.http.run import ServerSettings, ServiceConfig, serve, service_of

GREEDY = {"temperature": 0, "max_tokens": 8}


def test_strengths_beyond_the_safe_range_bring_a_warning_or_a_refusal(serving, llama, steers):
    body = {"prompt": "It was", "steers": {"style": 5}, **GREEDY}
    with serving(llama, steers) as client:
        warned = client.post("/v1/completions", json=body)
    assert "outside the safe range" in warned.headers["x-lmsteer-warning"]
    assert warned.json()["warnings"]
    with serving(llama, steers, strict=True) as client:
        refused = client.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "beyond_safe_range"


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"steers": {"nobody": 1}}, 400, "steers", "unknown steer 'nobody'; there are: other, style"),
        ({"steers": {"../style": 1}}, 400, "steers", "unknown steer"),
        ({"steers": {"style": "high"}}, 400, "steers", "cannot read"),
        ({"steers": {"style": "1,2"}}, 400, "steers", "one strength a steer"),
        ({"steers": {"style": 1e39}}, 400, "steers", "cannot read"),
        ({"steers": {"style": ",".join("1" * 2000), "other": ",".join("1" * 2000)}}, 400, "steers", "one strength"),
        ({"steers": "style"}, 400, "steers", "cannot read"),
        ({"steers": {"style": None}}, 400, "steers", ""),
        ({"prompt": {"a": 1}}, 400, "prompt", ""),
        ({"steers": {"other": "50%"}}, 400, "steers", "no safe range"),
        ({"steers": {"style": 1}, "model": "style@1"}, 400, "steers", "in one place"),
        ({"model": "gpt-9"}, 404, "model", "unknown model 'gpt-9'"),
        ({"prompt": ""}, 400, "prompt", "empty"),
        ({"prompt": []}, 400, "prompt", ""),
        ({"prompt": [400]}, 400, "prompt", "none of the"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 100_000}, 400, "max_tokens", "longer than"),
        ({"temperature": -1}, 400, "temperature", ""),
        ({"n": 40, "prompt": ["a", "b"]}, 400, "n", "at once"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", ""),
        ({"best_of": 3}, 400, "best_of", "Input should be 1"),
        ({"tools": []}, 400, "tools", "Extra inputs"),
        ({"logit_bias": {"5": 1.0}}, 400, "logit_bias", "at most 0"),
        ({"steers": {"a" * 300: 1}}, 400, "steers", "unknown steer"),
        ({"steers": {f"s{k}": 1 for k in range(65)}}, 400, "steers", "64 steers at most"),
        ({"steers": " , "}, 400, "steers", "cannot read"),
        ({"echo": True}, 400, "echo", ""),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_field_at_fault(client, body, status, param, message):
    answer = client.post("/v1/completions", json={"prompt": "It was", **body})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["param"].split(".")[0] == param
    assert message in error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"top_logprobs": 2}, "top_logprobs are told beside logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options are for streams"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
        ({"response_format": {"type": "json_object"}}, "Input should be 'text'"),
    ],
)
def test_what_would_have_no_effect_is_refused(client, body, message):
    said = {"messages": [{"role": "user", "content": "It was"}], **body}
    answer = client.post("/v1/chat/completions", json=said)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("neutral", [{"best_of": 1}, {"logit_bias": {}}, {"presence_penalty": 0}], ids=repr)
def test_what_says_that_nothing_is_to_be_done_is_let_through(client, neutral):
    assert client.post("/v1/completions", json={"prompt": "It was", **GREEDY, **neutral}).status_code == 200


def test_half_of_a_character_is_refused(client):
    content = b'{"prompt": "It \\ud800"}'
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "half of a character" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt":', "the body is no JSON: Expecting value, at character 10."),
        (b"", "the body cannot be read"),
        (b"[]", "the body cannot be read"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b"\xff", "parsing the body"),
        (b"[" * 5000, "parsing the body"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_body_that_is_no_request_is_refused(client, content, message):
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_a_body_that_is_too_large_is_refused(client):
    answer = client.post("/v1/completions", json={"prompt": "a" * 20_000})
    assert answer.status_code == 413
    assert "10,000 bytes" in answer.json()["error"]["message"]


def test_a_key_is_asked_for_where_there_is_one(serving, llama, steers):
    with serving(llama, steers, keys=["one", "two"]) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_key_may_have_any_characters():
    assert is_key("schlüssel".encode(), ["key", "schlüssel"])
    assert not is_key("schlüssel".encode("latin-1"), ["schlüssel"])


def test_too_much_at_once_is_told_to_come_again(serving, endless, steers):
    limits = EngineConfig(rows=1, waiting=0)
    with serving(endless, steers, limits=limits, seconds=3.0) as client:
        long = threading.Thread(
            target=client.post, args=("/v1/completions",), kwargs={"json": {"prompt": "a", "max_tokens": 2_000}}
        )
        long.start()
        while not client.get("/health").json()["rows"]:
            pass
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        long.join()


def test_an_answer_that_runs_out_of_time_says_so(serving, endless, steers):
    with serving(endless, steers, seconds=0.3) as client:
        found = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2_000}).json()
    assert found["choices"][0]["finish_reason"] == "length"
    assert "time" in found["warnings"][0]


def test_an_empty_key_is_refused(serving, llama, steers):
    with serving(llama, steers, keys=["one"]) as client:
        assert client.get("/v1/models", headers={"Authorization": "Bearer "}).status_code == 401
    service = service_of(llama, ServiceConfig(folders=[steers]))
    with pytest.raises(LMSteerError, match="empty"):
        serve(service, ServerSettings(keys=["one", ""]))
    service.engine.close()


def test_a_step_that_fails_is_the_servers_own_failure(serving, llama, steers, monkeypatch):
    with serving(llama, steers) as client:
        monkeypatch.setattr(llama.head.module, "forward", lambda *_: 1 / 0)
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "step_failed"
        monkeypatch.undo()
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_server_that_has_stopped_says_so(llama, steers):
    service = service_of(llama, ServiceConfig(folders=[steers]))
    with TestClient(create_app(service)) as client:
        service.engine.close()
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert client.get("/health").status_code == 503
