"""A steer on a running server: sound servers pass, and each fault fails its own check."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from threading import Condition

import pytest
import torch
from fastapi.responses import JSONResponse

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.serving.verification import verify as module
from lmsteer.serving.verification.client import JsonClient, ServerError
from lmsteer.serving.verification.connect import connect
from lmsteer.serving.verification.verify import verify_engine
from lmsteer.steer.files import load_steer
from tiny import kin_of, tiny_lm


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Faults show within a few tokens."""
    monkeypatch.setattr(module, "_TOKENS", 5)


@pytest.fixture
def measure(llama, folder):
    """Measures the steer on the server at an address."""

    def verified(url, lm=llama, strength=1.0, steer=None):
        server = connect(JsonClient(url, None, 60.0), "style", strength)
        return verify_engine(server, "style", lm, steer or load_steer(folder / "style"), strength)

    return verified


def failed(verification):
    """The numbers of the checks that failed."""
    assert verification.acts == all(check.passed for check in verification.checks)
    return [check.what.split(".")[0] for check in verification.checks if not check.passed]


def with_strengths(change):
    """Answers requests after it has changed the strengths of the steers that they name."""

    def answer(body, forward):
        steers = {name: change(strength) for name, strength in body.get("steers", {}).items()}
        return forward({**body, "steers": steers})

    return answer


def test_our_own_server_passes(measure, own_url, llama):
    found = measure(own_url + "/v1/", strength=1.5)
    assert failed(found) == []
    assert (found.program, found.address, found.served_model, found.local_model) == (
        "lmsteer",
        own_url,
        llama.name,
        llama.name,
    )
    assert found.engine_version == found.lmsteer_version == version("lmsteer")
    assert found.shift > 0.1
    assert found.noise < 1e-4
    assert len(found.checks) == 7
    assert all(check.difference < 1e-3 for check in found.checks)


def test_vllm_is_asked_in_its_own_way(measure, behind, llama):
    asked = []

    def translate(body, forward):
        """The plugin reads ``vllm_xargs``; vLLM drops fields that it does not know."""
        asked.append(body)
        kept = {name: value for name, value in body.items() if name not in ("steers", "vllm_xargs")}
        steers = body.get("vllm_xargs", {}).get("steers", "")
        assert isinstance(steers, str)
        return forward({**kept, "steers": steers})

    found = measure(behind(translate, owner="vllm"))
    assert failed(found) == []
    assert (found.program, found.engine_version) == ("vLLM", "9.8.7")
    assert {body.get("vllm_xargs", {}).get("steers") for body in asked} >= {
        None,
        "style=0.0",
        "style=1.0",
        "style=-1.0",
    }
    with pytest.raises(
        ServerError, match=r"vLLM at .* has no steers: it answers a request for one that does not exist"
    ):
        measure(behind(lambda body, forward: translate({**body, "vllm_xargs": {}}, forward), owner="vllm"))


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (lambda strength: 0.0, ["3", "3"]),
        (lambda strength: strength * 0.8, ["3", "3"]),
        (lambda strength: strength if strength < 0 else 0.0, ["3"]),
        (lambda strength: strength or 0.3, ["2"]),
    ],
    ids=["ignored", "too small", "ignored where positive", "not none at 0"],
)
def test_wrong_strengths_fail(measure, behind, change, checks):
    assert failed(measure(behind(with_strengths(change)))) == checks


def test_a_steer_in_requests_that_name_none_fails(measure, behind):
    def always(body, forward):
        return forward({"steers": {"style": 0.3}, **body})

    assert failed(measure(behind(always))) == ["1", "2"]


def test_a_steer_that_acts_on_neighbours_fails(measure, behind):
    running, changed = [], Condition()

    def spill(body, forward):
        """The strength of a request with a steer acts on those that run beside it and have none."""
        strength = body.get("steers", {}).get("style", 0.0)
        with changed:
            if strength > 0:
                running.append(body)
                changed.notify_all()
            elif not strength and changed.wait_for(lambda: running, timeout=0.05):
                body = {**body, "steers": {"style": 0.5}}
        try:
            return forward(body)
        finally:
            with changed:
                running[:] = [each for each in running if each is not body]

    assert failed(measure(behind(spill))) == ["4"]


def test_unknown_steers_that_are_answered_fail(measure, behind):
    def forget(body, forward):
        return forward(body if body.get("steers", {}).keys() <= {"style"} else {**body, "steers": {}})

    assert failed(measure(behind(forget))) == ["5"]


def test_a_kin_of_the_base_passes_where_the_steer_shows(measure, serve, llama):
    url = serve(kin_of(llama, "Q8_0"))
    assert failed(measure(url, strength=2.0)) == []
    with pytest.raises(
        SteerError, match=r"at strength 0\.001 the steer moves log-probabilities by .* a greater --strength"
    ):
        measure(url, strength=0.001)


def test_another_model_on_the_server_is_told(measure, serve, llama):
    other = tiny_lm("llama")
    with torch.no_grad():
        other.model.get_input_embeddings().weight.neg_()
    url = serve(replace(other, base_fingerprint=llama.fingerprint))  # so that the server takes the steer for its own
    with pytest.raises(ServerError, match=r"runs another model than 'tiny-llama': .*Name its model with --model"):
        measure(url)
    with pytest.raises(WrongBaseError):
        measure(url, lm=tiny_lm("gpt2"))


def test_strength_0_and_answers_in_another_form_are_refused(measure, own_url, behind):
    with pytest.raises(SteerError, match="no steer acts"):
        measure(own_url, strength=0.0)
    answers = ({}, {"choices": [{"logprobs": None}]}, [])
    for answer in (
        *answers,
        {"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [0], "top_logprobs": [{}]}}]},
    ):
        with pytest.raises(ServerError, match="has no log-probabilities of tokens that are named by ids"):
            measure(behind(lambda *_, answer=answer: JSONResponse(answer)))
