"""What is wrong with a server or its answer is told in one sentence each."""

from __future__ import annotations

import socket

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse

from live_server import running
from lmsteer.serving.verification.client import JsonClient, RefusedError, ServerError
from lmsteer.serving.verification.connect import connect, name_on_server


def constant(value):
    return lambda: value


def asked(url, key=None, steer="style", timeout=30.0):
    return connect(JsonClient(url, key, timeout), steer, 1.0)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://localhost", "http://", "http://localhost:x", "http://localhost?a=1"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ServerError, match="is no address of a server: write it like http"):
        JsonClient(url, None, 1.0)


def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated():
    with pytest.raises(ServerError, match="characters that no request can send") as refused:
        JsonClient("http://localhost", "secret\n", 1.0)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_and_one_that_is_silent_are_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match=r"does not answer within 0\.05 seconds: .*--timeout sets another time"):
            asked(url, timeout=0.05)
    with pytest.raises(ServerError, match=r"cannot be reached: .*refused"):
        asked(url)
    with pytest.raises(ServerError, match="cannot be reached"):
        asked("http://no such host")


def test_servers_of_other_kinds_are_told_apart():
    app = FastAPI()
    pages = {
        "page": HTMLResponse("<html>"),
        "list": [],
        "empty": {"data": []},
        "other": {"data": [{"id": "m", "owned_by": "library"}]},
        "away": RedirectResponse("http://elsewhere/"),
    }
    for name, answer in pages.items():
        app.get(f"/{name}/v1/models", response_model=None)(constant(answer))
    with running(app) as url:
        for name, message in (
            ("page", "answers with something that is not JSON"),
            ("list", "lists no model"),
            ("empty", "lists no model"),
            ("other", "has no steers: 'm' is served by 'library'"),
            ("away", "sends on to http://elsewhere/: name that server"),
            ("nothing", "answers with status 404: Not Found"),
        ):
            with pytest.raises(ServerError, match=message):
                asked(f"{url}/{name}")


def test_a_key_and_a_steer_that_the_server_does_not_know_are_told(serve, llama):
    url = serve(llama, keys=["right"])
    for key in (None, "wrong"):
        with pytest.raises(RefusedError, match=r"status 401: no valid key.*Name its key with --api-key"):
            asked(url, key)
    with pytest.raises(RefusedError, match="status 400: unknown steer 'nobody'; known steers: style"):
        asked(url, "right", "nobody")
    assert asked(url, "right").program == "lmsteer"


def test_a_steer_is_named_by_its_folder_or_its_id_on_the_hub(tmp_path):
    assert name_on_server(tmp_path / "style") == "style"
    fetched = tmp_path / "models--org--warm" / "snapshots" / ("a" * 40)
    assert name_on_server(fetched) == "org/warm"
