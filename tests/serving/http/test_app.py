import dataclasses
import json
import threading

import pytest
from fastapi.testclient import TestClient

from lmsteer import analyse, generate, load_steer, save_steer
from lmsteer.errors import LMSteerError
from lmsteer.lm import LM
from lmsteer.printing.reading import analysis_as_json
from lmsteer.serving.engine.engine import Limits
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServerSettings, Serving, serve, service_of
from tiny import random_steer, tiny_model, tiny_tokenizer

GREEDY = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def steers(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("steers")
    steer = random_steer(llama, name="style")
    card = dataclasses.replace(steer.card, strength_range=(-3.0, 4.0), dial={"auto": 2.0})
    save_steer(dataclasses.replace(steer, card=card), folder / "style")
    save_steer(random_steer(llama, "offset", name="other"), folder / "other")
    return folder


@pytest.fixture
def client(llama, steers):
    with serving(llama, steers) as client:
        yield client


def serving(lm, folder, *, keys=(), body_bytes=10_000, **settings):
    return TestClient(
        create_app(service_of(lm, Serving(folders=[folder], **settings)), keys=keys, body_bytes=body_bytes)
    )


def events(response):
    """Of a stream, but for its end."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_completion_is_what_generate_gives_and_says_which_steers_acted(llama, steers, client):
    body = {"prompt": "It was", "steers": {"style": 2.5}, "seed": 3, "n": 2, "top_p": 0.9, "max_tokens": 9}
    steer = load_steer(steers / "style")
    expected = list(generate(llama, ["It was"], {"style": steer}, [{"style": 2.5}], n=2, seed=3, max_new_tokens=9))
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    found = answer.json()
    assert [choice["text"] for choice in found["choices"]] == [each.text for each in expected]
    assert found["steers"] == {"style": 2.5}
    assert found["steered_tokens"] == found["usage"]["completion_tokens"] == sum(each.tokens for each in expected)
    assert answer.headers["x-lmsteer-steers"] == "style=2.5"
    assert "x-lmsteer-warning" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "acting"),
    [
        ({"style": "50%"}, {"style": 2.0}),
        ("style=auto, other=-1", {"style": 2.0, "other": -1.0}),
        ({}, {}),
        ({"style": 0}, {"style": 0.0}),
    ],
)
def test_strengths_may_be_written_as_on_the_command_line(client, asked, acting):
    found = client.post("/v1/completions", json={"prompt": "It was", "steers": asked, **GREEDY}).json()
    assert found["steers"] == acting
    assert found["steered_tokens"] == (found["usage"]["completion_tokens"] if any(acting.values()) else 0)


def test_a_model_s_name_may_carry_a_strength(client):
    by_name = client.post("/v1/completions", json={"prompt": "It was", "model": "style@2.5", **GREEDY}).json()
    plainly = client.post("/v1/completions", json={"prompt": "It was", "steers": {"style": 2.5}, **GREEDY}).json()
    assert by_name["choices"] == plainly["choices"]
    assert by_name["steers"] == {"style": 2.5}
    both = client.post("/v1/completions", json={"prompt": "It was", "model": "style@1+other@-1", **GREEDY}).json()
    assert both["steers"] == {"style": 1.0, "other": -1.0}


def test_nulls_are_fields_left_out(client):
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "stop", "steers", "model", "logprobs", "user"))
    body = {"prompt": "It was", "seed": 1, "max_tokens": 4}
    first, second = (client.post("/v1/completions", json=each).json() for each in (body, {**nulls, **body}))
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_has_the_same_words_in_pieces(client, path, llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    said = {"prompt": "It was"} if path == "completions" else {"messages": [{"role": "user", "content": "It was"}]}
    body = {**said, **GREEDY, "n": 2, "steers": {"style": 1}}
    whole = client.post(f"/v1/{path}", json=body).json()
    stream = client.post(f"/v1/{path}", json={**body, "stream": True, "stream_options": {"include_usage": True}})
    assert stream.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(stream)
    assert last["usage"] == whole["usage"]
    assert last["steered_tokens"] == whole["steered_tokens"] > 0
    for choice in whole["choices"]:
        own = [each["choices"][0] for each in pieces if each["choices"][0]["index"] == choice["index"]]
        if path == "completions":
            assert "".join(each["text"] for each in own) == choice["text"]
        else:
            assert "".join(each["delta"]["content"] for each in own) == choice["message"]["content"]
            assert [each["delta"].get("role") for each in own] == ["assistant", *[None] * (len(own) - 1)]
        assert [each["finish_reason"] for each in own] == [*[None] * (len(own) - 1), choice["finish_reason"]]


def test_likelihoods_are_told_where_they_are_asked_for(client, llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    completion = client.post("/v1/completions", json={"prompt": "It was", "logprobs": 2, **GREEDY}).json()
    told = completion["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == completion["usage"]["completion_tokens"]
    for token, log_p, top in zip(*told.values(), strict=True):
        assert top[token] == log_p == max(top.values()) < 0
    body = {"messages": [{"role": "user", "content": "It was"}], "logprobs": True, "top_logprobs": 2, **GREEDY}
    lines = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert [line["logprob"] for line in lines] == told["token_logprobs"]
    assert all(len(line["top_logprobs"]) == 2 for line in lines)


def test_a_text_ends_before_a_stop(client):
    whole = client.post("/v1/completions", json={"prompt": "It was", **GREEDY}).json()["choices"][0]["text"]
    cut = client.post("/v1/completions", json={"prompt": "It was", "stop": [whole[4:6]], **GREEDY}).json()["choices"][0]
    assert cut["text"] == whole[: whole.index(whole[4:6])]
    assert cut["finish_reason"] == "stop"


def test_prompts_may_be_several_and_may_be_ids(client, llama):
    texts = client.post("/v1/completions", json={"prompt": ["It was", "a"], **GREEDY}).json()["choices"]
    ids = client.post("/v1/completions", json={"prompt": llama.encode(["It was", "a"]), **GREEDY}).json()["choices"]
    one = client.post("/v1/completions", json={"prompt": llama.encode(["It was"])[0], **GREEDY}).json()["choices"]
    assert texts == ids
    assert texts[0] == one[0]


def test_strengths_beyond_the_safe_range_bring_a_warning_or_a_refusal(llama, steers):
    body = {"prompt": "It was", "steers": {"style": 5}, **GREEDY}
    with serving(llama, steers) as client:
        warned = client.post("/v1/completions", json=body)
    assert "beyond what was found safe" in warned.headers["x-lmsteer-warning"]
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
        ({"best_of": 3}, 400, "best_of", "Extra inputs"),
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
    "content", [b"{", b"", b"[]", b'{"prompt": "a", "temperature": NaN}', b"\xff", b"[" * 5000], ids=repr
)
def test_a_body_that_is_no_request_is_refused(client, content):
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused(client):
    answer = client.post("/v1/completions", json={"prompt": "a" * 20_000})
    assert answer.status_code == 413
    assert "10,000 bytes" in answer.json()["error"]["message"]


def test_a_key_is_asked_for_where_there_is_one(llama, steers):
    with serving(llama, steers, keys=["one", "two"]) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}):
            assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer two"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_too_much_at_once_is_told_to_come_again(endless, steers):
    limits = Limits(rows=1, waiting=0)
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


def test_an_answer_that_runs_out_of_time_says_so(endless, steers):
    with serving(endless, steers, seconds=0.3) as client:
        found = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2_000}).json()
    assert found["choices"][0]["finish_reason"] == "length"
    assert "time" in found["warnings"][0]


def test_models_and_steers_are_listed_as_they_lie_there(client, llama, steers):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [llama.name]
    assert client.get(f"/v1/models/{llama.name}").json()["max_model_len"] == llama.max_length
    assert client.get("/v1/models/nobody").status_code == 404
    assert [steer["name"] for steer in client.get("/v1/steers").json()["data"]] == ["other", "style"]
    assert client.get("/v1/steers/style").json()["safe_range"] == [-3, 4]
    assert client.get("/v1/steers/new").status_code == 404
    save_steer(random_steer(llama, seed=5), steers / "new")
    assert client.get("/v1/steers/new").json()["rank"] == 3
    found = client.post("/v1/completions", json={"prompt": "It was", "steers": {"new": 1}, **GREEDY})
    assert found.json()["steers"] == {"new": 1}


def test_texts_are_read_as_analyse_reads_them(client, llama, steers):
    (expected,) = analyse(llama, ["It was good."], {"style": load_steer(steers / "style")})
    answer = client.post("/v1/analyse", json={"texts": ["It was good."], "steers": ["style"]})
    assert answer.json() == {"data": [json.loads(json.dumps(analysis_as_json(expected)))]}
    assert client.post("/v1/analyse", json={"texts": ["a"], "steers": ["nobody"]}).status_code == 404
    assert client.post("/v1/analyse", json={"texts": [""], "steers": ["style"]}).status_code == 400


def test_texts_are_read_within_limits(llama, steers):
    with serving(llama, steers, context=16) as client:
        answer = client.post("/v1/analyse", json={"texts": ["a" * 40], "steers": ["style"]})
        assert answer.status_code == 400
        assert "more than 16" in answer.json()["error"]["message"]
        many = {"texts": ["a"] * 5, "steers": ["style", "other"]}
        assert len(client.post("/v1/analyse", json=many).json()["data"]) == 5


def test_an_empty_key_is_refused(llama, steers):
    with serving(llama, steers, keys=["one"]) as client:
        assert client.get("/v1/models", headers={"Authorization": "Bearer "}).status_code == 401
    with pytest.raises(LMSteerError, match="empty"):
        serve(service_of(llama, Serving(folders=[steers])), ServerSettings(keys=["one", ""]))


def test_a_step_that_fails_is_the_servers_own_failure(llama, steers, monkeypatch):
    with serving(llama, steers) as client:
        monkeypatch.setattr(llama.head.module, "forward", lambda *_: 1 / 0)
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "step_failed"
        monkeypatch.undo()
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


def test_a_hub_s_name_of_a_model_is_found(steers):
    lm = LM(tiny_model("llama"), tiny_tokenizer(), "someone/tiny")
    with serving(lm, steers) as client:
        assert client.get("/v1/models/someone/tiny").json()["id"] == "someone/tiny"


def test_figures_count_what_was_asked_and_written(client):
    client.post("/v1/completions", json={"prompt": "It was", "steers": {"style": 1}, **GREEDY})
    client.get("/nowhere/at/all")
    told = client.get("/metrics").text
    assert 'lmsteer_requests_total{path="/v1/completions",status="200"} 1.0' in told
    assert 'lmsteer_requests_total{path="other",status="404"} 1.0' in told
    assert 'lmsteer_steered_tokens_total{steer="style"} 8.0' in told
    assert "lmsteer_tokens_total 8.0" in told
    assert "lmsteer_first_token_seconds_count 1.0" in told


def test_a_server_that_has_stopped_says_so(llama, steers):
    service = service_of(llama, Serving(folders=[steers]))
    with TestClient(create_app(service)) as client:
        service.engine.close()
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert client.get("/health").status_code == 503
