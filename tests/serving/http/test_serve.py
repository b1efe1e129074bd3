"""The real server as a process, on the real default model: the page's own examples, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from lmsteer import find_steer, generate
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from test_docs import commands

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
pytestmark = pytest.mark.model


@contextmanager
def serving(folder, *options):
    """`lmsteer serve` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lmsteer", "serve", "--no-page", "--port", str(port), *options]
    log = folder / "log"
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ}, stderr=said)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 240
    while True:
        try:
            assert httpx.get(f"{address}/health").json()["status"] == "ok"
            break
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    try:
        yield address, process
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as (address, process):
        yield address, process


def test_the_python_of_the_page_runs(server, tmp_path):
    address, _ = server
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    code = blocks[0].replace("http://127.0.0.1:8000", address)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "{'sentiment': 2.5} 20" in done.stdout


def test_the_commands_of_the_page_are_commands():
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [line.split()[1] for block in blocks for line in commands(block)] == ["serve", *["export"] * 3, "generate"]


def test_answers_are_those_of_generate(server, smollm2):
    address, _ = server
    body = {"prompt": "The movie was", "steers": {"sentiment": -3}, "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120).json()
    steers = {"sentiment": find_steer("sentiment")}
    greedy = GenerationConfig(max_new_tokens=24, sampling=SamplingConfig(temperature=0))
    (expected,) = generate(smollm2, ["The movie was"], steers, [{"sentiment": -3.0}], greedy)
    assert answer["choices"][0]["text"] == expected.text


def test_clients_that_hang_up_free_their_rows(server):
    address, _ = server
    body = {"prompt": "The movie was", "max_tokens": 2_000, "temperature": 0}  # which goes round in circles for long
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/completions", json=body, timeout=0.7)
    with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}, timeout=60) as answer:
        next(answer.iter_lines())
    assert httpx.get(f"{address}/metrics").status_code == 200
    deadline = time.monotonic() + 20
    while httpx.get(f"{address}/health").json()["rows"]:
        assert time.monotonic() < deadline, "rows go on that nobody waits for"
        time.sleep(0.1)


def test_it_ends_when_what_is_at_work_is_written(tmp_path):
    with serving(tmp_path) as (address, process):
        body = {"prompt": "The movie was", "max_tokens": 40, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"' in rest[-2]
        assert process.wait(60) == 0 or process.returncode == -signal.SIGTERM
