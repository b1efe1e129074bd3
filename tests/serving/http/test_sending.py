"""Streams whose clients are gone."""

import asyncio
import gc
import json
from threading import Event

import pytest

from asking import results_of
from lmsteer.serving.engine.requests import Request


@pytest.mark.parametrize("read", [0, 1], ids=["before the stream begins", "within the stream"])
@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
def test_sequence_ends_when_the_client_hangs_up(serving, endless, steers, path, read):
    body = {"prompt": "It was", "raw": True} if path.startswith("/api") else {"prompt": "It was", "max_tokens": 5_000}
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "asgi": {}}

    async def ask(app):
        sent, has_read = asyncio.Queue(), asyncio.Event()
        sent.put_nowait({"type": "http.request", "body": json.dumps({**body, "stream": True}).encode()})
        pieces = 0

        async def receive():
            if not sent.empty():
                return await sent.get()
            await has_read.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal pieces
            await asyncio.sleep(0)  # as on a connection that takes no more for now
            pieces += message["type"] == "http.response.body"
            if pieces >= read:
                has_read.set()

        if not read:
            has_read.set()
        await app(scope, receive, send)

    with serving(endless, steers) as client:
        asyncio.run(ask(client.app))
        engine = client.app.state.service.engine
        results_of(engine, [Request([5], max_new_tokens=2)])
        assert engine.running == engine.waiting == 0


def test_a_client_that_hangs_up_on_an_analysis_leaves_nothing_behind(serving, llama, steers):
    scope = {"type": "http", "method": "POST", "path": "/v1/analyse", "headers": [], "query_string": b"", "asgi": {}}
    body = json.dumps({"texts": ["a", "b"], "steers": ["style"]}).encode()
    problems, go_on = [], Event()

    async def ask(app, engine):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["message"]))
        busy = engine.call(go_on.wait)
        received = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

        async def receive():
            return next(received)

        async def send(_):
            pass

        await app(scope, receive, send)
        go_on.set()
        await asyncio.wrap_future(busy)
        await asyncio.sleep(0)
        gc.collect()

    with serving(llama, steers) as client:
        asyncio.run(ask(client.app, client.app.state.service.engine))
    assert problems == []
