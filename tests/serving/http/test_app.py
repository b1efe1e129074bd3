import asyncio
import json
from contextlib import ExitStack
from itertools import chain

import pytest

from asking import results_of
from lmsteer import analyse, generate, load_steer, save_steer
from lmsteer.generation.config import GenerationConfig, Limits
from lmsteer.model.lm import LM
from lmsteer.serving.engine.requests import Request
from lmsteer.serving.http.sending import unless_disconnected
from lmsteer.serving.http.submission import Submission
from tiny import random_steer, tiny_model, tiny_tokenizer

GREEDY = {"temperature": 0, "max_tokens": 8}


def events(response):
    """The data of a stream's events, without the end mark."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_completion_is_what_generate_gives_and_names_the_steers(llama, steers, client):
    body = {"prompt": "It was", "steers": {"style": 2.5}, "seed": 3, "n": 2, "max_tokens": 9}
    steer = load_steer(steers / "style")
    expected = list(generate(llama, ["It was"], {"style": steer}, [{"style": 2.5}], GenerationConfig(2, 9, seed=3)))
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


def test_model_name_may_hold_strengths(client):
    by_name = client.post("/v1/completions", json={"prompt": "It was", "model": "style@2.5", **GREEDY}).json()
    plainly = client.post("/v1/completions", json={"prompt": "It was", "steers": {"style": 2.5}, **GREEDY}).json()
    assert by_name["choices"] == plainly["choices"]
    assert by_name["steers"] == {"style": 2.5}
    both = client.post("/v1/completions", json={"prompt": "It was", "model": "style@1+other@-1", **GREEDY}).json()
    assert both["steers"] == {"style": 1.0, "other": -1.0}


def test_limits_are_those_of_generate(llama, steers, client):
    body = {"prompt": "It was", "steers": {"style": 6}, "seed": 1, "max_tokens": 9, "logprobs": 5}
    config = GenerationConfig(1, 9, seed=1, limits=Limits(0.5, 4, 0.1))
    steer = load_steer(steers / "style")
    (expected,) = generate(llama, ["It was"], {"style": steer}, [{"style": 6.0}], config)
    found = client.post("/v1/completions", json={**body, "plausible": 0.5, "fresh": 4, "kl": 0.1}).json()
    plain = client.post("/v1/completions", json={**body, "kl": None}).json()
    assert found["choices"][0]["text"] == expected.text != plain["choices"][0]["text"]
    # Tokens that are ruled out are not among the likeliest ones.
    tops = [[*chain(*each["choices"][0]["logprobs"]["top_logprobs"])] for each in (found, plain)]
    assert len(tops[0]) < len(tops[1])


def test_limits_that_would_have_no_effect_are_refused(client):
    for fields, param in (
        ({"kl": 1}, "kl"),
        ({"fresh": 3}, "fresh"),
        ({"plausible": 0.1, "echo": True, "logprobs": 1}, "plausible"),
    ):
        answer = client.post("/v1/completions", json={"prompt": "It was", **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_nulls_count_as_missing_fields(client):
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "stop", "steers", "model", "logprobs", "user"))
    body = {"prompt": "It was", "seed": 1, "max_tokens": 4}
    first, second = (client.post("/v1/completions", json=each).json() for each in (body, {**nulls, **body}))
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_stream_has_the_text_of_the_whole_response(client, path, llama, monkeypatch):
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


def test_logprobs_have_the_format_of_both_paths(client, llama, monkeypatch):
    monkeypatch.setattr(llama.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    completion = client.post("/v1/completions", json={"prompt": "It was", "logprobs": 2, **GREEDY}).json()
    logprobs = completion["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == completion["usage"]["completion_tokens"]
    for token, log_p, top in zip(
        *(logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs")), strict=True
    ):
        assert top[token] == log_p == max(top.values()) < 0
    body = {"messages": [{"role": "user", "content": "It was"}], "logprobs": True, "top_logprobs": 2, **GREEDY}
    lines = client.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]["content"]
    assert [line["logprob"] for line in lines] == logprobs["token_logprobs"]
    assert all(len(line["top_logprobs"]) == 2 for line in lines)


def test_text_ends_before_a_stop_string(client):
    whole = client.post("/v1/completions", json={"prompt": "It was", **GREEDY}).json()["choices"][0]["text"]
    cut = client.post("/v1/completions", json={"prompt": "It was", "stop": [whole[4:6]], **GREEDY}).json()["choices"][0]
    assert cut["text"] == whole[: whole.index(whole[4:6])]
    assert cut["finish_reason"] == "stop"


def test_prompts_may_be_lists_and_token_ids(client, llama):
    texts = client.post("/v1/completions", json={"prompt": ["It was", "a"], **GREEDY}).json()["choices"]
    ids = client.post("/v1/completions", json={"prompt": llama.encode(["It was", "a"]), **GREEDY}).json()["choices"]
    one = client.post("/v1/completions", json={"prompt": llama.encode(["It was"])[0], **GREEDY}).json()["choices"]
    assert texts == ids
    assert texts[0] == one[0]


def test_models_and_steers_are_listed_as_they_are_saved_now(client, llama, steers):
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


def test_analysis_is_what_analyse_gives(client, llama, steers):
    (expected,) = analyse(llama, ["It was good."], {"style": load_steer(steers / "style")})
    answer = client.post("/v1/analyse", json={"texts": ["It was good."], "steers": ["style"]})
    assert answer.json() == {"data": [json.loads(json.dumps(expected.to_json()))]}
    assert client.post("/v1/analyse", json={"texts": ["a"], "steers": ["nobody"]}).status_code == 404
    assert client.post("/v1/analyse", json={"texts": [""], "steers": ["style"]}).status_code == 400


def test_analysed_texts_have_limits(serving, llama, steers):
    with serving(llama, steers, max_model_len=16) as client:
        answer = client.post("/v1/analyse", json={"texts": ["a" * 40], "steers": ["style"]})
        assert answer.status_code == 400
        assert "more than 16" in answer.json()["error"]["message"]
        many = {"texts": ["a"] * 5, "steers": ["style", "other"]}
        assert len(client.post("/v1/analyse", json=many).json()["data"]) == 5


def test_model_name_with_a_slash_is_found(serving, steers):
    lm = LM(tiny_model("llama"), tiny_tokenizer(), "someone/tiny")
    with serving(lm, steers) as client:
        assert client.get("/v1/models/someone/tiny").json()["id"] == "someone/tiny"


def test_model_with_steers_is_found(client):
    assert client.get("/v1/models/style@2").json()["id"] == "style@2"
    for name in ("nobody@2", "style@high", "gpt-9"):
        assert client.get(f"/v1/models/{name}").status_code == 404


def test_work_is_cancelled_when_the_client_hangs_up():
    class Gone:
        async def receive(self):
            return {"type": "http.disconnect"}

    async def hung_up():
        work = asyncio.get_running_loop().create_future()
        return await unless_disconnected(Gone(), work), work.cancelled()

    assert asyncio.run(hung_up()) == (None, True)


def test_metrics_count_requests_and_tokens(serving, llama, steers):
    with serving(llama, steers) as client:
        client.post("/v1/completions", json={"prompt": "It was", "steers": {"style": 1}, **GREEDY})
        client.get("/nowhere/at/all")
        metrics = client.get("/metrics").text
    assert 'lmsteer_requests_total{path="/v1/completions",status="200"} 1.0' in metrics
    assert 'lmsteer_requests_total{path="other",status="404"} 1.0' in metrics
    assert 'lmsteer_steered_tokens_total{steer="style"} 8.0' in metrics
    assert "lmsteer_tokens_total 8.0" in metrics
    assert "lmsteer_first_token_seconds_count 1.0" in metrics
    assert "lmsteer_waiting_sequences 0.0" in metrics


def test_silent_stream_is_kept_open_by_comments(serving, endless, steers):
    """Proxies close a connection on which nothing is sent for a minute, as in a long queue."""
    with serving(endless, steers, ping_seconds=0.01) as client:
        body, comments = {"prompt": "It was", "stream": True, **GREEDY}, []
        busy = ExitStack()
        busy.enter_context(endless.exclusive_use())
        with busy, client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            comments.append(next(lines))
            busy.close()
            rest = [line for line in lines if line.startswith("data: ")]
    assert comments == [": ping"]
    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 1


def test_registry_and_engine_are_not_used_on_the_event_loop(client, llama, monkeypatch):
    """Both may block, and the loop serves all clients."""
    service, on_loop = client.app.state.service, {}

    def watch(owner, name):
        original = getattr(owner, name)

        def watched(*args, **options):
            on_loop.setdefault(name, []).append(is_event_loop())
            return original(*args, **options)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((service.registry, "find"), (service.registry, "steering"), (service.engine, "submit")):
        watch(owner, name)
    watch(service.engine, "call")
    for _ in range(2):
        assert client.post("/v1/completions", json={"prompt": "It was", "steers": {"style": 1}, **GREEDY}).is_success
    assert client.get("/v1/models/style@2").is_success
    assert client.get("/v1/steers").is_success
    assert client.get("/v1/steers/style").is_success
    assert client.post("/v1/analyse", json={"texts": ["a"], "steers": ["style"]}).is_success
    assert set(on_loop) == {"find", "steering", "submit", "call"}
    assert not any(any(each) for each in on_loop.values())


def is_event_loop():
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_submission_that_is_cancelled_while_it_starts_leaves_no_sequence(engines, endless):
    async def cancelled():
        engine = engines(endless)
        submission = Submission(engine, [Request([5, 6], max_new_tokens=30_000)])
        submission.cancel()
        await submission.start()
        return engine

    engine = asyncio.run(cancelled())
    results_of(engine, [Request([5], max_new_tokens=2)])
    assert engine.running == engine.waiting == 0


def test_defaults_are_those_of_generate(client, llama):
    (expected,) = generate(llama, ["It was"], config=GenerationConfig(seed=5))
    (choice,) = client.post("/v1/completions", json={"prompt": "It was", "seed": 5}).json()["choices"]
    assert choice["text"] == expected.text
