"""llama-server is asked in its own way; what it says of its adapters is checked."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from live_server import running
from lmsteer.serving.verification import verify as module
from lmsteer.serving.verification.client import JsonClient, RefusedError, ServerError
from lmsteer.serving.verification.connect import connect
from lmsteer.serving.verification.verify import verify_engine
from lmsteer.steer.files import load_steer


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Faults show within a few tokens."""
    monkeypatch.setattr(module, "_TOKENS", 5)


@pytest.fixture
def llama_server(llama, inner):
    """Starts servers that answer as llama-server does, with our own server behind; each gives its address.

    Its adapters, the change that it makes to a scale, its answer in place of a completion, and the places whose
    log-probabilities it tells may be chosen.
    """
    with ExitStack() as stack:

        def start(adapters=("other.gguf", "some/style.gguf"), scale=0.0, change=float, answer=None, shown=bool):
            app = FastAPI()

            @app.get("/v1/models")
            def models():
                return {"object": "list", "data": [{"id": "base.gguf", "owned_by": "llamacpp"}]}

            @app.get("/props")
            def props():
                return {"build_info": "b9-abc"}

            @app.get("/lora-adapters")
            def listed():
                if not isinstance(adapters, tuple):
                    return adapters
                return [{"id": k, "path": path, "scale": scale} for k, path in enumerate(adapters)]

            @app.post("/completion")
            def completion(body: dict):
                if answer is not None:
                    return JSONResponse(answer)
                scales = {each["id"]: change(each["scale"]) for each in body.get("lora", [])}
                named = {Path(path).stem: scales[k] for k, path in enumerate(adapters) if k in scales}
                asked = {
                    "prompt": body["prompt"],
                    "max_tokens": body["n_predict"],
                    "temperature": body["temperature"],
                    "logprobs": body["n_probs"],
                    "return_tokens_as_token_ids": True,
                }
                lines = inner.post("/v1/completions", json={**asked, "steers": named}).json()["choices"][0]["logprobs"]
                places = [*map(place, *lines_of(lines))]
                tokens = [each["id"] for each in places]
                return {"tokens": tokens, "completion_probabilities": [each for each in places if shown(each)]}

            return stack.enter_context(running(app))

        yield start


def number(name):
    return int(name.removeprefix("token_id:"))


def lines_of(lines):
    return lines["tokens"], lines["token_logprobs"], lines["top_logprobs"]


def place(token, log_p, top):
    others = [{"id": number(name), "logprob": value} for name, value in top.items()]
    return {"id": number(token), "logprob": log_p, "top_logprobs": others}


def connected(url, steer="style"):
    return connect(JsonClient(url, None, 60.0), steer, 1.0)


def failed(url, llama, folder):
    found = verify_engine(connected(url), "style", llama, load_steer(folder / "style"), 1.0)
    return found, [check.what.split(".")[0] for check in found.checks if not check.passed]


def test_an_adapter_passes(llama_server, llama, folder):
    found, faults = failed(llama_server(), llama, folder)
    assert faults == []
    assert (found.program, found.engine_version, found.served_model) == ("llama.cpp", "b9-abc", "base.gguf")
    assert [check.what.split(".")[0] for check in found.checks] == ["1", "2", "3", "3", "4", "4"]


def test_an_answer_counts_up_to_a_token_without_log_probabilities(llama_server, llama):
    """llama-server tells none of a token that ends within a character."""
    prompt = llama.encode(["on the"])[0]
    whole = connected(llama_server()).complete(prompt, 5, "style", 1.0)
    hidden = whole.tokens[2]
    first = whole.tokens.index(hidden)
    written = connected(llama_server(shown=lambda place: place["id"] != hidden)).complete(prompt, 5, "style", 1.0)
    assert written.tokens == whole.tokens[:first]
    assert len(written.log_p) == first


@pytest.mark.parametrize(
    ("change", "checks"), [(lambda scale: 0.0, ["3", "3"]), (lambda scale: abs(scale), ["3"])], ids=["none", "no sign"]
)
def test_an_engine_that_ignores_the_scale_fails(llama_server, llama, folder, change, checks):
    assert failed(llama_server(change=change), llama, folder)[1] == checks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": ("a/style.gguf", "b/style.gguf")}, "several adapters of one name"),
        ({"adapters": ()}, "has no adapters: write one with `lmsteer export --to gguf-lora`"),
        ({"scale": 1.0}, r"start it with --lora-scaled other\.gguf:0,style\.gguf:0"),
        ({"adapters": [1, 2]}, "does not list adapters as llama-server does"),
        ({"answer": {"content": "x"}}, "no log-probabilities of tokens"),
        ({"answer": {"tokens": [], "completion_probabilities": []}}, "has no tokens with log-probabilities"),
        (
            {"answer": {"tokens": [3], "completion_probabilities": [{"id": 3, "logprob": 0, "top_logprobs": []}]}},
            "Speculative decoding",
        ),
    ],
)
def test_what_is_no_steering_server_is_told(llama_server, settings, message):
    with pytest.raises(ServerError, match=message):
        connected(llama_server(**settings))


def test_a_steer_of_the_hub_is_found_by_its_own_name(llama_server):
    assert connected(llama_server(), "org/style").program == "llama.cpp"


def test_an_adapter_that_is_not_there_is_named(llama_server):
    with pytest.raises(RefusedError, match=r"has no adapter calm\.gguf: it has other, style"):
        connected(llama_server(), "calm")
