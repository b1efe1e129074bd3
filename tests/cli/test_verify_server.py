"""verify --server measures a steer on a running server, and exits with status 1 where a check fails."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from live_server import running
from lmsteer.errors import ModelError
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.verification import client as verification_client
from lmsteer.steer.files import save_steer
from tiny import own_steer


@pytest.fixture
def url(lm, monkeypatch):
    """The address of a server that needs a key, and is asked for few tokens."""
    monkeypatch.setattr("lmsteer.serving.verification.verify._TOKENS", 4)
    save_steer(own_steer(lm, name="own"), "steers/own")
    save_steer(own_steer(lm, name="changed"), "steers/changed")
    with running(create_app(create_service(lm, ServiceConfig(folders=["steers"])), keys=["secret"])) as address:
        yield address


def test_a_report_to_paste_as_text_and_as_json(run, url, monkeypatch):
    monkeypatch.setenv("LMSTEER_API_KEY", "secret")
    status, out, _ = run("verify", "own", "--server", url)
    assert status == 0, out
    for part in (f"at {url}, model 'tiny'", "steer:  own, fingerprint", "base:   tiny, fingerprint", "beside steered"):
        assert part in out
    assert out.count(" ok ") == 7
    assert "secret" not in out
    status, as_json, _ = run("verify", "steers/own", "--server", url, "--strength", "2", "--json")
    found = json.loads(as_json)
    assert (status, found["acts"], found["strength"], len(found["checks"])) == (0, True, 2.0, 7)
    assert found["steer_fingerprint"] in out


def test_a_steer_that_is_another_one_on_the_server_exits_with_1(run, lm, url):
    server = ["--server", url, "--api-key", "secret"]
    save_steer(own_steer(lm, seed=9, name="changed"), "elsewhere/changed")
    status, out, _ = run("verify", "elsewhere/changed", *server)
    assert status == 1
    assert out.count("FAILED") == 2


def test_a_lora_of_peft_is_measured_in_this_process(run, lm, monkeypatch):
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    monkeypatch.setattr("lmsteer.serving.verification.verify._TOKENS", 4)
    save_steer(own_steer(lm, name="own"), "steers/own")
    status, out, err = run("verify", "own", "--engine", "peft", "--strength", "2")
    assert status == 0, out + err
    assert "engine: PEFT" in out
    assert "in this process, model 'tiny'" in out
    status, _, err = run("verify", "own", "--engine", "peft", "--data", "texts.jsonl")
    assert status == 2
    assert "leave out --data" in err
    status, _, err = run("verify", "own", "--engine", "peft", "--server", "http://127.0.0.1:1")
    assert status == 2
    assert "name two engines" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own"], "status 401: no valid key"),
        (
            ["elsewhere/new", "--api-key", "secret"],
            "status 400: unknown steer 'new'; known steers: changed, one, own, two",
        ),
        (["own", "--api-key", "secret", "--strength", "0"], "no steer acts"),
    ],
)
def test_what_cannot_be_measured_exits_with_2(run, lm, url, arguments, message):
    save_steer(own_steer(lm), "elsewhere/new")
    status, _, err = run("verify", *arguments, "--server", url)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "vllm", "--strength", "0"], "no steer acts"),
        (["--engine", "vllm"], "the program vllm is not found"),
        (["--engine", "llamacpp"], "the program llama-server is not found"),
        (["--engine-options", "-c 64"], "--engine-options is for --engine vllm and --engine llamacpp"),
        (["--engine", "peft", "--engine-options", "-c 64"], "--engine-options is for --engine vllm"),
        (["--engine", "vllm", "--engine-options", "'open"], "--engine-options"),
    ],
)
def test_engines_that_cannot_be_started_exit_with_2(run, lm, monkeypatch, tmp_path, arguments, message):
    save_steer(own_steer(lm, name="own"), "steers/own")
    monkeypatch.setattr("lmsteer.serving.verification.started._program", not_found)
    status, _, err = run("verify", "own", *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def not_found(name, advice):
    raise ModelError(f"the program {name} is not found: {advice}.")


def test_a_started_engine_is_measured_like_any_server(run, lm, url, monkeypatch):
    """The server of lmsteer stands in for that of the engine."""
    monkeypatch.setenv("LMSTEER_API_KEY", "secret")
    started = []

    @contextmanager
    def stand_in(steer, model, options):
        started.append(options)
        save_steer(steer, "steers/steer")
        yield url

    monkeypatch.setattr("lmsteer.serving.verification.started.vllm_server", stand_in)
    client = verification_client.JsonClient
    monkeypatch.setattr(verification_client, "JsonClient", lambda address, key, wait: client(address, "secret", wait))
    status, out, err = run("verify", "own", "--engine", "vllm", "--engine-options", "--dtype float32")
    assert status == 0, out + err
    assert started == [["--dtype", "float32"]]
    assert out.count(" ok ") == 7
