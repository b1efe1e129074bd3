"""GGUF adapters in llama-server itself, on the real default model. `make test-llamacpp` builds it and runs this."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmsteer import Mix, find_steer
from lmsteer.export.gguf import export_gguf, export_gguf_base
from lmsteer.export.gguf_lora import export_gguf_lora
from lmsteer.model.sources.pypi import gguf_of
from lmsteer.serving.verification.client import JsonClient, ServerError
from lmsteer.serving.verification.connect import connect
from lmsteer.serving.verification.verify import verify_engine
from tiny import inner_steer

SERVER = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(SERVER is None, reason="llama-server compiles for minutes: make test-llamacpp"),
]
TEXTS = ("My neighbour's new dog is a", "The weather this morning was")
# Nats. float32 by two programs; the largest gap where this was measured was 2e-4, after thirty steered layers.
TOLERANCE = 5e-4
SITES = ("layers.3.self_attn.q_proj", "layers.9.self_attn.k_proj", "layers.20.mlp.down_proj")


@pytest.fixture(scope="module")
def steers(smollm2):
    """A steer of the head, and a random one of linear layers."""
    layers = inner_steer(smollm2, SITES).scaled(0.2)
    return {"sentiment": find_steer("sentiment"), "layers": layers}


@pytest.fixture(scope="module")
def url(smollm2, steers, tmp_path_factory):
    """A server of the default model in float32 with both adapters."""
    folder = tmp_path_factory.mktemp("gguf")
    plain = Mix({"sentiment": steers["sentiment"]}, {"sentiment": 0.0})
    with gguf_of("smollm2") as source:
        base = export_gguf(smollm2, plain, source, folder / "base.gguf", output="f32", others="f32")
    adapters = [
        export_gguf_lora(smollm2, Mix({name: steer}, {name: 1.0}), base, folder / f"{name}.gguf")
        for name, steer in steers.items()
    ]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    loaded = ["--lora-scaled", ",".join(f"{adapter}:0" for adapter in adapters)]
    exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    # Prompts are read under the steers of the layers, and the server's cache does not tell scales apart.
    exact += ["--no-cache-prompt", "--cache-ram", "0"]
    slots = ["--parallel", "8", "--ctx-size", "4096", "--threads", "1"]
    command = [SERVER, "--model", str(base), "--port", str(port), *loaded, *exact, *slots]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(address, server)
            yield address
        finally:
            server.terminate()


def wait_for(address, server):
    for _ in range(120):
        assert server.poll() is None
        try:
            JsonClient(address, None, 5.0).get("/health")
        except ServerError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("llama-server does not start")


def gap(lm, steer, url, name, text, strength):
    """How far the server's log-probabilities of the next token are from lmsteer's own, in nats."""
    ids = lm.encode([text])[0]
    written = connect(JsonClient(url, None, 60.0), name, 1.0).complete(ids, 1, name, strength)
    with lm.steered(Mix({name: steer}, {name: strength})), torch.inference_mode():
        expected = torch.log_softmax(lm.model(torch.tensor([ids])).logits[0, -1].float(), -1)
    return max(abs(float(expected[token]) - value) for token, value in written.log_p[0].items())


@pytest.mark.parametrize("name", ["sentiment", "layers"])
def test_log_probabilities_are_lmsteers_own_at_any_scale(smollm2, steers, url, name):
    for strength in (2.5, -3.0, 0.5, 2.5):
        for text in TEXTS:
            assert gap(smollm2, steers[name], url, name, text, strength) < TOLERANCE


def test_requests_at_once_have_scales_of_their_own(smollm2, steers, url):
    cases = [(text, strength) for strength in (2.5, -1.5, 0.0, 4.0) for text in TEXTS]
    ids = [smollm2.encode([text])[0] for text, _ in cases]
    server = connect(JsonClient(url, None, 60.0), "sentiment", 1.0)
    with ThreadPoolExecutor(len(cases)) as pool:
        at_once = [*pool.map(lambda own, case: server.complete(own, 4, "sentiment", case[1]), ids, cases)]
    for own, (_, strength), written in zip(ids, cases, at_once, strict=True):
        alone = server.complete(own, 4, "sentiment", strength)
        assert alone.tokens == written.tokens
        # Rows beside others are summed in another order.
        assert abs(alone.log_p[-1][alone.tokens[-1]] - written.log_p[-1][alone.tokens[-1]]) < TOLERANCE


@pytest.mark.parametrize("name", ["sentiment", "layers"])
def test_verify_passes(smollm2, steers, url, name):
    found = verify_engine(connect(JsonClient(url, None, 60.0), name, 2.0), name, smollm2, steers[name], 2.0)
    assert found.acts
    assert found.program == "llama.cpp"


def test_tied_base_refuses_an_adapter_of_the_output(smollm2, steers, tmp_path):
    """What an untied base is for: llama.cpp finds no tensor for the adapter in the model's own file."""
    with gguf_of("smollm2") as source:
        base = export_gguf_base(source, tmp_path / "base.gguf")
        mix = Mix({"sentiment": steers["sentiment"]}, {"sentiment": 1.0})
        adapter = export_gguf_lora(smollm2, mix, base, tmp_path / "sentiment.gguf")
        command = [SERVER, "--model", str(source), "--lora", str(adapter), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode
    assert "output.weight" in done.stderr + done.stdout
