"""Ollama's interface: its own Python client on a running server, and what that client does not show."""

import json

import httpx
import pytest
from ollama import Client, Options, ResponseError

from lmsteer.serving.http.schema.neutral import NeutralFields
from lmsteer.serving.http.schema.requests import GenerationFields

STRENGTH = 1.5
OPTIONS = {"temperature": 0, "num_predict": 6}
STEERED = {**OPTIONS, "steers": {"style": STRENGTH}}
SAID = [{"role": "user", "content": "Hi"}]
ASKED = "<user>Hi\n<assistant>"


@pytest.fixture(scope="module")
def ollama(address):
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def post(address):
    """Sends a body; gives the response."""
    with httpx.Client(base_url=address) as client:
        yield lambda path, **body: client.post(f"/api/{path}", json=body)


def test_client_chats_with_steers(ollama, lm, greedy):
    answer = ollama.chat(lm.name, SAID, options=STEERED)
    assert answer.message.content == greedy(ASKED)
    assert answer.message.role == "assistant"
    assert answer.done
    assert answer.done_reason == "length"
    assert answer.prompt_eval_count == len(lm.encode([ASKED])[0])
    assert answer.eval_count == 6
    assert 0 <= answer.prompt_eval_duration + answer.eval_duration <= answer.total_duration
    in_name = ollama.chat(f"style@{STRENGTH}:latest", SAID, options=Options(**OPTIONS))
    assert in_name.message.content == greedy(ASKED)
    after = ollama.chat(lm.name, [*SAID, answer.message, {"role": "user", "content": "And?"}], options=STEERED)
    assert after.message.content == greedy(f"{ASKED}{greedy(ASKED)}\n<user>And?\n<assistant>")


def test_client_streams_chats(ollama, lm, greedy):
    *pieces, last = ollama.chat(lm.name, SAID, options=STEERED, stream=True)
    assert "".join(piece.message.content for piece in pieces) == greedy(ASKED)
    assert not any(piece.done or piece.eval_count for piece in pieces)
    assert last.done
    assert last.message.content == ""
    assert (last.done_reason, last.eval_count) == ("length", 6)


def test_client_continues_texts(ollama, lm, greedy):
    raw = ollama.generate(lm.name, "Hi", raw=True, options=STEERED)
    assert raw.response == greedy("Hi")
    templated = ollama.generate(lm.name, "Hi", system="Be brief.", options=STEERED)
    assert templated.response == greedy(f"<system>Be brief.\n{ASKED}")
    *pieces, last = ollama.generate(lm.name, "Hi", options={**STEERED, "stop": [greedy(ASKED)[3]]}, stream=True)
    assert "".join(piece.response for piece in pieces) == greedy(ASKED)[: greedy(ASKED).index(greedy(ASKED)[3])]
    assert last.done_reason == "stop"


def test_client_gets_log_likelihoods(ollama, lm, greedy):
    whole = ollama.chat(lm.name, SAID, options=STEERED, logprobs=True, top_logprobs=2)
    assert "".join(each.token for each in whole.logprobs).removesuffix("</s>") == greedy(ASKED)
    assert all(len(each.top_logprobs) == 2 for each in whole.logprobs)
    raw = ollama.generate(lm.name, "Hi", raw=True, options=STEERED, logprobs=True, stream=True)
    lines = [each for piece in raw for each in piece.logprobs or ()]
    assert len(lines) == 6
    assert all(each.logprob < 0 for each in lines)


def test_client_finds_the_model(ollama, lm):
    (listed,) = ollama.list().models
    assert listed.model == f"{lm.name}:latest"
    assert listed.size == sum(each.numel() * each.element_size() for each in lm.model.parameters())
    assert listed.details.family == "llama"
    for name in (listed.model, lm.name, "style@2:latest"):
        shown = ollama.show(name)
        assert shown.capabilities == ["completion"]
        assert shown.modelinfo["llama.context_length"] == lm.max_length
    with pytest.raises(ResponseError, match="unknown model") as caught:
        ollama.show("gpt-9")
    assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": {"steers": {"nobody": 1}}}, "unknown steer 'nobody'"),
        ({"options": {"repeat_penalty": 1.1}}, "options.repeat_penalty: 1.1 is not supported"),
        ({"options": {"minp": 0.1}}, "options.minp: unknown field; did you mean 'min_p'?"),
        ({"options": {"max_tokens": 5}}, "options.max_tokens: unknown field; did you mean 'num_predict'?"),
        ({"options": {"num_predict": 10**6}}, "exceeds the context"),
        ({"options": {"temperature": -1}}, "options.temperature: must be 0 or more, not -1."),
        ({"options": []}, "options: must be an object, not []."),
        ({"steers": {"style": 1}}, "steers: unknown field; it goes into 'options'."),
        ({"num_predict": 5}, "num_predict: unknown field; it goes into 'options'."),
        ({"format": "json"}, "cannot force a format"),
        ({"think": True}, "think: true is not supported"),
        ({"tools": [{"type": "function"}]}, "This server calls no tools."),
        ({"messages": [{"role": "user", "content": "a", "images": ["AAAA"]}]}, "This model reads text only."),
        ({"model": "gpt-9"}, "unknown model 'gpt-9'"),
    ],
)
def test_refusals_have_the_shape_of_ollama(post, fields, message):
    answer = post("chat", **{"messages": SAID, **fields})
    assert answer.status_code in (400, 404)
    assert answer.json().keys() == {"error"}
    assert message in answer.json()["error"]


def test_fields_that_would_have_no_effect_are_refused(post):
    for path, fields, message in (
        ("chat", {"messages": SAID, "top_logprobs": 3}, "top_logprobs: needs logprobs"),
        ("generate", {"prompt": "a", "raw": True, "system": "b"}, "system: has no place in raw text"),
        ("generate", {"model": "gpt-9"}, "unknown model 'gpt-9'"),
    ):
        answer = post(path, **fields)
        assert answer.status_code in (400, 404)
        assert message in answer.json()["error"]


def test_refusals_reach_the_caller_of_the_client(ollama, lm):
    for stream in (False, True):
        with pytest.raises(ResponseError, match="unknown steer 'nobody'") as caught:
            list(ollama.generate(lm.name, "Hi", options={"steers": "nobody=1"}, stream=stream))
        assert caught.value.status_code == 400


def test_options_of_no_effect_are_accepted(post, greedy):
    where = {
        "num_ctx": 512,
        "num_keep": 4,
        "num_batch": 8,
        "num_gpu": 0,
        "num_thread": 2,
        "use_mmap": True,
        "numa": False,
    }
    drawn = {"repeat_penalty": 1.0, "repeat_last_n": 64, "min_p": 0.0, "mirostat": 0, "penalize_newline": True}
    body = {"options": {**STEERED, **where, **drawn, "typical_p": None}, "keep_alive": "5m", "format": "", "tools": []}
    found = post("chat", messages=SAID, stream=False, **body).json()
    assert found["message"]["content"] == greedy(ASKED)
    assert found["steers"] == {"style": STRENGTH}
    assert found["steered_tokens"] == found["eval_count"]


def test_options_take_all_that_says_how_a_text_is_generated(address, post, lm):
    drawn = {"temperature": 1.3, "top_p": 0.8, "top_k": 40, "seed": 4, "stop": ["qq"], "steers": {"style": 4}}
    fields = {**drawn, "plausible": 0.1, "fresh": 8, "kl": 0.5, "readings": True}
    found = post("chat", messages=SAID, stream=False, options={**fields, "num_predict": 6}).json()
    body = {"messages": SAID, **fields, "max_tokens": 6}
    expected = httpx.post(f"{address}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert found["message"]["content"] == expected
    others = {"gist", "baseline", "hold"}  # nothing here can be named in them
    assert {*fields} == {*GenerationFields.model_fields} - {*NeutralFields.model_fields} - others


def test_stream_is_the_default_and_has_one_object_on_each_line(post, lm):
    answer = post("generate", model=lm.name, prompt="Hi", options=STEERED)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-lmsteer-steers"] == f"style={STRENGTH}"
    *pieces, last = [json.loads(line) for line in answer.text.splitlines()]
    assert all(piece.keys() == {"model", "created_at", "response", "done"} for piece in pieces)
    assert last["steers"] == {"style": STRENGTH}
    assert last["model"] == lm.name


@pytest.mark.parametrize("num_predict", [{}, {"num_predict": -1}, {"num_predict": -2}], ids=str)
def test_without_a_limit_the_text_goes_up_to_the_end_of_the_context(serving, endless, steers, num_predict):
    with serving(endless, steers, max_model_len=16) as client:
        body = {"prompt": "Hi", "raw": True, "stream": False, "options": num_predict}
        found = client.post("/api/generate", json=body).json()
    assert found["prompt_eval_count"] + found["eval_count"] == 16


def test_model_without_a_template_continues_texts(client, llama):
    body = {"prompt": "It was", "stream": False, "options": {"temperature": 0, "num_predict": 4}}
    found = client.post("/api/generate", json=body).json()
    plainly = client.post("/v1/completions", json={"prompt": "It was", "temperature": 0, "max_tokens": 4}).json()
    assert found["response"] == plainly["choices"][0]["text"]
    for path, sent in (("generate", {**body, "system": "Be kind."}), ("chat", {"messages": SAID})):
        assert "no chat template" in client.post(f"/api/{path}", json=sent).json()["error"]


def test_request_without_a_text_finds_the_model_loaded(post, lm):
    for path, text in (("chat", {"message": {"role": "assistant", "content": ""}}), ("generate", {"response": ""})):
        found = post(path, model=lm.name).json()
        del found["created_at"]
        assert found == {"model": lm.name, **text, "done": True, "done_reason": "load"}


def test_error_in_a_stream_is_its_last_line(client, llama, monkeypatch):
    monkeypatch.setattr(llama.head.module, "forward", lambda *_: 1 / 0)
    (line,) = client.post("/api/generate", json={"prompt": "It was"}).text.splitlines()
    assert json.loads(line).keys() == {"error"}


def test_version_and_paths_that_are_not_there(client):
    assert client.get("/api/version").json()["version"]
    assert client.get("http://testserver//api/tags/").status_code == 200
    missing = client.post("/api/embed", json={"input": "a"})
    assert missing.status_code == 404
    assert "there is no path /api/embed here" in missing.json()["error"]
    assert "send POST" in client.get("/api/chat").json()["error"]


def test_keys_guard_these_paths_too(serving, llama, steers):
    with serving(llama, steers, keys=["one"]) as client:
        refused = client.get("/api/tags")
        assert refused.status_code == 401
        assert "no valid key" in refused.json()["error"]
        assert client.get("/api/tags", headers={"Authorization": "Bearer one"}).status_code == 200
