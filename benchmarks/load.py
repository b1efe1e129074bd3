"""The server under load: many clients at once, each answer held against its own offline result.

    python -m benchmarks.load measure    64 clients for two minutes beside one client, and clients that hang up
    python -m benchmarks.load pause      one client's stream while another's long prompt is read
    python -m benchmarks.load show       print the table

The server is `lmsteer serve` in a process of its own, on the default model, asked over loopback. Every request draws a
prompt and strengths; decoding is greedy, so that an answer must be what ``lmsteer.generate`` gives for it alone. Where
it is not, the margin tells why: by how much the logit of the token alone exceeded that of the token in company, where
the two texts part. Rounding differs with the shape of a batch, so two tokens closer than that are a tie; all else is a
wrong row. Results go to ``results/load.json``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import torch
import typer

from benchmarks.results import save_result
from benchmarks.tables import TABLES
from lmsteer.data.starter import starter_prompts
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix

RESULTS = Path(__file__).parent / "results" / "load.json"
CLIENTS, SECONDS, TOKENS = 64, 120.0, 32
LONG = 4096
STRENGTHS: tuple[dict[str, float], ...] = (
    {},
    {"sentiment": 3.0},
    {"sentiment": -3.0},
    {"toxicity": 2.0},
    {"sentiment": 2.0, "politeness": -2.0},
)
# Logits are some twenty in size, and lose a millionth of it to float32's rounding in thirty layers.
ROUNDING = 1e-4
Job = tuple[str, tuple[tuple[str, float], ...]]
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure() -> None:
    """One client, then all of them, then all of them while some hang up; each answer is checked."""
    own: dict[Job, str] = {}
    with server("--max-queue", "256", "--max-num-seqs", "64", "--no-page") as (address, process):
        for name, clients, seconds, rude in (
            ("one client", 1, SECONDS / 4, False),
            ("64 clients", CLIENTS, SECONDS, False),
            ("64 clients, a third of whom hang up", CLIENTS, SECONDS / 4, True),
        ):
            found = asyncio.run(_load(address, clients, seconds, rude))
            found["MiB"] = process.memory_info().rss / 2**20  # grown to: the server gives little back
            found["health after"] = httpx.get(f"{address}/health").json()
            margins = list(_margins(found.pop("answers"), own))
            found["ties"] = sum(abs(margin) <= ROUNDING for margin in margins)
            found["wrong"] = len(margins) - found["ties"]
            found["margins"] = margins
            save_result(RESULTS, name, found)


@app.command("pause")
def pause() -> None:
    """The longest wait between two tokens of a stream, beside the time that a long prompt takes to be read."""
    with server("--no-page") as (address, _):
        save_result(RESULTS, f"a stream while {LONG:,} tokens are read", asyncio.run(_paused(address)))


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["load"]())


@contextmanager
def server(*options: str) -> Iterator[tuple[str, psutil.Process]]:
    """The server on a free port, from start to a graceful stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lmsteer", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, env=os.environ)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                httpx.get(f"{address}/health")
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def _load(address: str, clients: int, seconds: float, rude: bool) -> dict[str, Any]:
    end = time.monotonic() + seconds
    answers: list[tuple[Job, str]] = []
    times, tokens, errors = list[float](), 0, 0

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal tokens, errors
        draw = random.Random(number)
        while time.monotonic() < end:
            job = (draw.choice(starter_prompts()), tuple(draw.choice(STRENGTHS).items()))
            body = {"prompt": job[0], "steers": dict(job[1]), "temperature": 0, "max_tokens": TOKENS}
            started = time.monotonic()
            try:
                if rude and draw.random() < 1 / 3:
                    await asyncio.wait_for(http.post(f"{address}/v1/completions", json=body), draw.random())
                    continue
                answer = (await http.post(f"{address}/v1/completions", json=body)).raise_for_status().json()
            except TimeoutError:
                continue  # that was the hanging up
            except httpx.HTTPError:
                errors += 1
                continue
            times.append(time.monotonic() - started)
            tokens += answer["usage"]["completion_tokens"]
            errors += answer["steers"] != dict(job[1])
            answers.append((job, answer["choices"][0]["text"]))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:
        started = time.monotonic()
        await asyncio.gather(*(client(number, http) for number in range(clients)))
    ordered = sorted(times)
    return {
        "finished": len(answers),
        "errors": errors,
        "tokens/s": tokens / (time.monotonic() - started),
        "median s": median(ordered),
        "95 % s": ordered[int(0.95 * len(ordered))],
        "answers": answers,
    }


async def _paused(address: str) -> dict[str, float]:
    began = asyncio.Event()
    moments: list[float] = []

    async def stream(http: httpx.AsyncClient) -> None:
        body = {"prompt": "The movie was", "max_tokens": 2_000, "stream": True, "steers": {"sentiment": 3.0}}
        async with http.stream("POST", f"{address}/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line:
                    moments.append(time.monotonic())
                    began.set()

    async with httpx.AsyncClient(timeout=600) as http:
        streaming = asyncio.create_task(stream(http))
        await began.wait()
        started = time.monotonic()
        long = {"prompt": [1000] * LONG, "max_tokens": 1}
        (await http.post(f"{address}/v1/completions", json=long)).raise_for_status()
        ended = time.monotonic()
        streaming.cancel()
    moments = [started, *(moment for moment in moments if moment > started), ended]
    pauses = [after - before for before, after in pairwise(moments)]
    return {"long prompt": ended - started, "longest pause": max(pauses), "tokens meanwhile": len(moments) - 2}


def _margins(answers: list[tuple[Job, str]], own: dict[Job, str]) -> Iterator[float]:
    """Of the answers that are not what their prompt and strengths give alone, which is written once."""
    lm, greedy = load(), GenerationConfig(max_new_tokens=TOKENS, sampling=SamplingConfig(temperature=0))
    for job, text in answers:
        prompt, strengths = job
        mix = Mix({name: find_steer(name) for name, _ in strengths}, dict(strengths))
        if job not in own:
            (row,) = generate(lm, [prompt], mix.steers, [dict(strengths)], greedy)
            own[job] = row.text
        if text != own[job]:
            yield _margin(lm, mix, *lm.encode([prompt + own[job], prompt + text]))


def _margin(lm: LM, mix: Mix, alone: list[int], found: list[int]) -> float:
    """Logits by which a text alone preferred its own next token, where another one parts from it."""
    pairs = enumerate(zip_longest(alone, found, fillvalue=lm.stop_ids[0]))
    place, (its, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    with lm.steered(mix), torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([alone[:place]])).logits[0, -1]
    return float(logits[its] - logits[other])


if __name__ == "__main__":
    app()
