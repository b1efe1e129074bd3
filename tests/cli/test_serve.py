"""serve refuses what it cannot do before it listens."""

from __future__ import annotations

import socket

import pytest

from lmsteer.steer.files import save_steer
from tiny import random_steer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-num-seqs", "0"], "Invalid value for '--max-num-seqs'"),
        (["--max-cache-tokens", "-1"], "Invalid value for '--max-cache-tokens'"),
        (["--timeout", "0"], "must be more than 0, not 0"),
        (["--max-model-len", "1"], "Invalid value for '--max-model-len'"),
        (["--max-model-len", "1000000"], "not 1000000"),
        (["--host", "192.0.2.7"], "cannot listen at 192.0.2.7"),
        (["--host", "127.0.0..1"], "cannot listen at 127.0.0..1"),
        (["--max-queue", "-1"], "Invalid value for '--max-queue'"),
        (["--port", "99999"], "Invalid value for '--port'"),
        (["--api-key", ""], "an API key is empty"),
        (["--allow-origin", "localhost:3000"], "'localhost:3000' is not an origin: write it as browsers do"),
        (["--steers", "nowhere"], "--steers names nowhere, which is neither a folder nor an id"),
        (["--gists", "nowhere"], "--gists names nowhere, which is not a folder"),
        (["--baselines", "nowhere"], "--baselines names nowhere, which is not a folder"),
    ],
)
def test_what_cannot_be_served_is_refused(run, options, message):
    status, _, err = run("serve", "--no-page", *options)
    assert status == 2
    assert message in " ".join(err.split())


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_key_of_the_environment_is_refused(run, monkeypatch, blank):
    monkeypatch.setenv("LMSTEER_API_KEY", blank)
    status, _, err = run("serve", "--no-page")
    assert status == 2
    assert "an API key is empty" in err


def test_a_key_of_the_environment_is_one_key_whatever_is_in_it(run, monkeypatch):
    monkeypatch.setenv("LMSTEER_API_KEY", "two words")
    settings = []
    monkeypatch.setattr("lmsteer.serving.http.run.serve", lambda _, given, __: settings.append(given))
    assert run("serve", "--no-page")[0] == 0
    assert settings[0].keys == ["two words"]


def test_origins_are_passed_on_and_all_of_them_are_warned_of(run, monkeypatch):
    settings = []
    monkeypatch.setattr("lmsteer.serving.http.run.serve", lambda _, given, __: settings.append(given))
    origins = ["http://localhost:3000", "https://chat.example"]
    status, _, err = run("serve", "--no-page", *(part for each in origins for part in ("--allow-origin", each)))
    assert (status, settings[0].origins) == (0, origins)
    assert "--api-key" not in err
    assert "any web page" in " ".join(run("serve", "--no-page", "--allow-origin", "*")[2].split())
    assert run("serve", "--no-page")[0] == 0
    assert [each.origins for each in settings[1:]] == [["*"], []]


def test_a_port_that_is_taken_is_told(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = run("serve", "--no-page", "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "choose another with --host and --port" in " ".join(err.split())


def test_the_port_that_was_bound_is_told_and_what_is_left_out(run, llama, tmp_path, monkeypatch):
    ports = []
    monkeypatch.setattr("uvicorn.Server.run", lambda _, sockets: ports.extend(s.getsockname()[1] for s in sockets))
    save_steer(random_steer(llama), tmp_path / "broken")
    (tmp_path / "broken" / "steer.safetensors").write_bytes(b"")
    save_steer(random_steer(llama), tmp_path / "of-another-model")
    status, _, err = run("serve", "--no-page", "--port", "0", "--steers", str(tmp_path))
    told = " ".join(err.split())
    assert status == 0
    assert f"at http://127.0.0.1:{ports[0]}/v1" in told
    assert ports[0] > 0
    assert "left out: the steer in" in told
    assert told.count("left out") == 1


def test_an_open_server_without_keys_is_warned_of(run):
    _, _, err = run("serve", "--no-page", "--host", "192.0.2.7")
    assert "--api-key" in err
    assert "--api-key" not in run("serve", "--no-page", "--host", "192.0.2.7", "--api-key", "x")[2].split("cannot")[0]


def test_a_steer_of_the_hub_is_served_by_its_id(run, hub, llama, tmp_path, monkeypatch):
    services = []
    monkeypatch.setattr("lmsteer.serving.http.run.serve", lambda service, *_: services.append(service))
    hub.add("org/style", save_steer(random_steer(llama), tmp_path / "made"))
    assert run("serve", "--no-page", "--steers", "org/style")[0] == 0
    assert "org/style" in services[0].registry.names()
    status, _, err = run("serve", "--no-page", "--steers", "org/missing")
    assert (status, "the Hub has no such repository" in " ".join(err.split())) == (2, True)
