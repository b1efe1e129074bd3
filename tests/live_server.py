"""A server on a free port, in a thread of the tests."""

import threading
from contextlib import contextmanager

import uvicorn

from lmsteer.serving.http.run import bind


class Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config):
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def running(app):
    """A server in a thread; gives its address."""
    with bind("127.0.0.1", 0) as listening:
        server = Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert server.ready.wait(60)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
