import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from lmsteer import save_steer
from tiny import read_steer


@pytest.fixture(scope="session")
def on_a_loop():
    """Calls a function on an event loop: without one gradio makes several to build a page, and leaves them open."""

    def call(function, *args):
        async def run():
            return function(*args)

        with ThreadPoolExecutor(1) as pool:  # this thread may have a loop of its own, playwright's
            return pool.submit(asyncio.run, run()).result()

    return call


@pytest.fixture(scope="module")
def steers(endless, tmp_path_factory):
    """A folder with one steer, whose reading can be held."""
    folder = tmp_path_factory.mktemp("steers")
    save_steer(read_steer(endless), folder / "style")
    return folder
