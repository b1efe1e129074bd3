"""The real server as a process, on the real default model: the examples of docs/how-to/serve.md, and how it stops."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from lmsteer import find_steer, generate
from lmsteer.generation.config import GenerationConfig, SamplingConfig

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The page's own command, on a free port: the address, and the process."""
    line, *_ = re.findall(r"^lmsteer (serve .*)$", PAGE, re.MULTILINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "lmsteer", *shlex.split(line.replace("8000", port)), "--no-page"]
    process = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("server"), stderr=subprocess.PIPE, text=True)
    for said in process.stderr:
        if "Stop with Ctrl-C" in said:
            break
    address = f"http://127.0.0.1:{port}"
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
        assert client.get(f"{address}/health", timeout=60).json()["status"] == "ok", process.stderr.read()
    yield address, process
    process.kill()
    process.wait(30)
    process.stderr.close()


@pytest.mark.slow
def test_python_of_the_page_runs(server):
    address, _ = server
    blocks = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5  # openai, its responses, ollama, LiteLLM, LangChain
    code = "\n".join(blocks).replace("http://127.0.0.1:8000", address)
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # LiteLLM fetches its prices when imported
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "{'sentiment': 2.5} 20" in done.stdout


def test_responses_are_what_generate_gives(server, smollm2):
    address, _ = server
    body = {"prompt": "The movie was", "steers": {"sentiment": -3}, "seed": 4, "max_tokens": 24}
    for sampling in (SamplingConfig(), SamplingConfig(temperature=0)):
        body["temperature"] = sampling.temperature
        response = httpx.post(f"{address}/v1/completions", json=body, timeout=120).json()
        config = GenerationConfig(max_new_tokens=24, sampling=sampling, seed=4)
        steers = {"sentiment": find_steer("sentiment")}
        (expected,) = generate(smollm2, ["The movie was"], steers, [{"sentiment": -3.0}], config)
        assert response["choices"][0]["text"] == expected.text


def test_sequences_of_disconnected_clients_end(server):
    address, _ = server
    body = {"prompt": "The movie was", "max_tokens": 2_000, "temperature": 0}  # greedy text repeats itself for long
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/completions", json=body, timeout=0.7)
    with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}, timeout=60) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 20
    while httpx.get(f"{address}/health").json()["running"]:
        assert time.monotonic() < deadline, "sequences run that nobody waits for"


def test_running_responses_are_finished_on_sigterm(server):
    """The last test of this module: it stops the server."""
    address, process = server
    body = {"prompt": "The movie was", "max_tokens": 40, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=120) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"' in rest[-2]
    assert process.wait(60) == 0 or process.returncode == -signal.SIGTERM
