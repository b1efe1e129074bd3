import dataclasses

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from live_server import running
from lmsteer import generate, load_steer, save_steer
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.serving.http.app import create_app
from lmsteer.serving.http.run import ServiceConfig, create_service
from tiny import random_steer, tiny_lm

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def steers(llama, tmp_path_factory):
    """One with a safe range, one without."""
    folder = tmp_path_factory.mktemp("steers")
    steer = random_steer(llama, name="style")
    card = dataclasses.replace(steer.card, safe_range=(-3.0, 4.0), calibration={"target_strength": 2.0})
    save_steer(dataclasses.replace(steer, card=card), folder / "style")
    save_steer(random_steer(llama, "offset", name="other"), folder / "other")
    return folder


@pytest.fixture(scope="session")
def serving():
    """Makes clients of servers of their own; ``with`` starts and stops the server."""

    def make(lm, folder, *, keys=(), body_bytes=10_000, ping_seconds=15.0, **settings):
        service = create_service(lm, ServiceConfig(folders=[folder], **settings))
        return TestClient(create_app(service, keys=keys, body_bytes=body_bytes, ping_seconds=ping_seconds))

    return make


@pytest.fixture(scope="module")
def shared_client(serving, llama, steers):
    """A client of one server with default settings, shared by the tests of a module."""
    with serving(llama, steers) as client:
        yield client


@pytest.fixture
def client(shared_client):
    """The shared client."""
    return shared_client


@pytest.fixture
def openai(client, llama, monkeypatch, request):
    """OpenAI's client of the shared server, whose model chats in the template of the test's module."""
    monkeypatch.setattr(llama.tokenizer, "chat_template", request.module.TEMPLATE)
    return OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture(scope="module")
def lm():
    """A model that chats, of a server for real clients."""
    lm = tiny_lm("llama")
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@pytest.fixture(scope="module")
def address(lm, steers):
    """The address of the running server."""
    with running(create_app(create_service(lm, ServiceConfig(folders=[steers])))) as address:
        yield address


@pytest.fixture
def greedy(lm, steers):
    """The greedy text that the package gives for a prompt at a strength."""
    steer = load_steer(steers / "style")

    def text(prompt, strength=1.5, max_tokens=6):
        config = GenerationConfig(1, max_tokens, SamplingConfig(temperature=0))
        (found,) = generate(lm, [prompt], {"style": steer}, [{"style": strength}], config)
        return found.text

    return text
