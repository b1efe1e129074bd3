"""Servers on free ports: our own, and ones that pass requests on to it after they have changed them."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from live_server import running
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.steer.files import save_steer
from tiny import own_steer


@pytest.fixture(scope="session")
def folder(llama, tmp_path_factory):
    """A folder of steers with one in it."""
    where = tmp_path_factory.mktemp("steers")
    save_steer(own_steer(llama), where / "style")
    return where


@pytest.fixture(scope="session")
def serve(folder):
    """Starts servers of models; each gives its address, and stops at the end."""
    with ExitStack() as stack:

        def start(lm, **options):
            return stack.enter_context(
                running(create_app(create_service(lm, ServiceConfig(folders=[folder])), **options))
            )

        yield start


@pytest.fixture(scope="session")
def own_url(serve, llama):
    """The address of our own server."""
    return serve(llama)


@pytest.fixture(scope="session")
def inner(llama, folder):
    """A client of our own server, without a connection."""
    with TestClient(create_app(create_service(llama, ServiceConfig(folders=[folder])))) as client:
        yield client


@pytest.fixture
def behind(llama, inner):
    """Starts servers that change what our own server is asked; each gives its address.

    What answers a request is given its body, and a function that passes a body on.
    """
    with ExitStack() as stack:

        def start(answer, owner="lmsteer"):
            app = FastAPI()

            @app.get("/v1/models")
            def models():
                return {"object": "list", "data": [{"id": llama.name, "owned_by": owner}]}

            @app.get("/version")
            def version():
                return {"version": "9.8.7"}

            @app.post("/v1/completions")
            def completions(body: dict):
                return answer(body, forward)

            def forward(body):
                answered = inner.post("/v1/completions", json=body)
                return JSONResponse(answered.json(), answered.status_code)

            return stack.enter_context(running(app))

        yield start
