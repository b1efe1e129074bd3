"""The server under a mixed load: gists, baselines, steers, limits, streams, clients that hang up, texts to analyse.

    python -m benchmarks.mixed_load --clients 64 --seconds 600

Each client draws one request after the other from a pool, with and without a stream; some hang up. After the load each
request that was answered is sent once more, alone, to the same server. Every answer is held against its own: the text,
and the log-likelihoods of its tokens. Where texts part, the log-likelihoods of the five likeliest tokens tell why: if
they are the same but for rounding, two tokens lay so close that rounding decided (a tie); all else is a wrong row.
Results go to ``results/mixed_load.json``.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import typer

from benchmarks.load import server
from benchmarks.results import save_result
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.lora import LoRABaseline
from lmsteer.baselines.methods import save_baseline
from lmsteer.data.starter import starter_prompts
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import input_text, prompt_ids
from lmsteer.model.loading import load
from lmsteer.model.lora import to_tensors
from lmsteer.util.provenance import provenance_of

RESULTS = Path(__file__).parent / "results" / "mixed_load.json"
TOKENS = 32
GISTS = {"opposite": "Write the opposite of the given word.", "story": "Write a short story about the given topic."}
STEERS: tuple[dict[str, float], ...] = (
    {},
    {"sentiment": 3.0},
    {"sentiment": -3.0},
    {"sentiment": 0.5, "toxicity": 1.5},
    {"politeness": -2.0},
)
LIMITS: tuple[dict[str, float], ...] = ({}, {"plausible": 0.05}, {"fresh": 16}, {"kl": 1.0})
BEFORE: tuple[dict[str, str], ...] = (
    {},
    {},
    {"gist": "opposite"},
    {"gist": "story"},
    {"baseline": "lora=0.5"},
    {"baseline": "lora=-0.25"},
)
# Characters of the texts to analyse; the longest has more than a thousand tokens.
TEXTS = (60, 600, 6_000)
# Shares of the requests.
STREAMED, HUNG_UP, ANALYSED = 0.5, 0.1, 0.03
# Seconds after which an answer counts as an error.
PATIENCE = 300.0
# Nats by which float32 may part two log-likelihoods of one token, and the evidence of a text.
ROUNDING = 1e-2
Answer = dict[str, Any]
app = typer.Typer(add_completion=False)


@dataclass
class Found:
    """What a load has found.

    Attributes:
        answers: the number of a request, and its answer.
        errors: what failed, and how often.
        hung_up: number of requests that were hung up on.
        first: seconds from each request for a stream to its first chunk.
        waits: the longest wait between two chunks of each stream, in seconds.
        tokens: number of tokens.
        memory: seconds since the start, and the server's memory in MiB.
    """

    answers: list[tuple[int, Answer]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    hung_up: int = 0
    first: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    tokens: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)


@app.command()
def main(clients: int = 64, seconds: float = 600.0, jobs: int = 96) -> None:
    """Load the server, then send each request alone."""
    pool = [_request(random.Random(number)) for number in range(jobs)]
    with tempfile.TemporaryDirectory() as folder:
        gists, baselines = _folders(Path(folder))
        options = ["--gists", str(gists), "--baselines", str(baselines), "--max-queue", "256", "--max-num-seqs", "64"]
        with server(*options, "--timeout", str(PATIENCE), "--no-page") as (address, process):
            started = time.monotonic()
            found = asyncio.run(_load(address, process, pool, clients, seconds))
            spent = time.monotonic() - started
            alone = {number: _alone(address, pool[number]) for number in sorted({place for place, _ in found.answers})}
            health = httpx.get(f"{address}/health").json()
    kinds = Counter(_compared(answer, alone[number]) for number, answer in found.answers)
    wrong = [number for number, answer in found.answers if _compared(answer, alone[number]) == "wrong"]
    save_result(
        RESULTS,
        f"{clients} clients, {seconds:g} s",
        {
            "answers": len(found.answers),
            **{kind: kinds[kind] for kind in ("same", "ties", "wrong")},
            "wrong requests": [pool[number] for number in sorted({*wrong})][:5],
            "errors": dict(found.errors),
            "hung up": found.hung_up,
            "tokens/s": found.tokens / spent,
            "streams": len(found.waits),
            "longest wait between two chunks": max(found.waits),
            "median longest wait": median(found.waits),
            "longest wait for a first chunk": max(found.first),
            "memory": [*map(list, found.memory)],
            "health after": health,
        },
    )


def _folders(folder: Path) -> tuple[Path, Path]:
    """A folder of gists and one of baselines: a LoRA, for which that of the shipped gist adapter will do."""
    lm, adapter = load(), find_adapter(SHIPPED)
    made = compress(lm, adapter, prompt_ids(lm, [*GISTS.values()]))
    (folder / "gists").mkdir()
    for name, gist in zip(GISTS, made, strict=True):
        gist.save(folder / "gists" / f"{name}.gist")
    lora = {name: tensor.float() for name, tensor in to_tensors(adapter.lora).items()}
    card = BaselineCard(method="lora", **provenance_of(lm))
    save_baseline(LoRABaseline(card, lora), folder / "baselines" / "lora")
    return folder / "gists", folder / "baselines"


def _request(draw: random.Random) -> dict[str, Any]:
    """A request: a text to analyse, or one to write."""
    prompt = draw.choice(starter_prompts())
    if draw.random() < ANALYSED:
        text = " ".join(draw.choice(starter_prompts()) for _ in range(1 + draw.choice(TEXTS) // 40))
        return {"texts": [text], "steers": ["sentiment", "toxicity"]}
    steers, before = draw.choice(STEERS), draw.choice(BEFORE)
    return {
        "prompt": input_text(prompt) if "gist" in before else prompt,
        "steers": steers,
        "max_tokens": TOKENS,
        "logprobs": 5,
        **before,
        **(draw.choice(LIMITS) if steers else {}),
        **draw.choice(({"temperature": 0}, {"temperature": 0.9, "seed": draw.randrange(1000)})),
    }


async def _load(
    address: str, process: psutil.Process, pool: Sequence[dict[str, Any]], clients: int, seconds: float
) -> Found:
    """Send requests from all clients for some time."""
    found, started = Found(), time.monotonic()

    async def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < started + seconds:
            place = draw.randrange(len(pool))
            try:
                answer = await _asked(http, address, pool[place], draw, found)
            except httpx.HTTPStatusError as error:
                found.errors[f"{error.response.status_code}: {error.response.text[:200]}"] += 1
            except (httpx.HTTPError, ValueError) as error:
                found.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                if answer is not None:
                    found.answers.append((place, answer))

    async def watch() -> None:
        while True:
            found.memory.append((time.monotonic() - started, process.memory_info().rss / 2**20))
            await asyncio.sleep(5)

    async with httpx.AsyncClient(timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as http:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*map(client, range(clients)))
        watching.cancel()
    return found


async def _asked(
    http: httpx.AsyncClient, address: str, body: dict[str, Any], draw: random.Random, found: Found
) -> Answer | None:
    """The answer to a request; None if it was hung up on."""
    patience = draw.uniform(0, 5) if draw.random() < HUNG_UP else None
    if "texts" in body:
        asking = _whole(http, f"{address}/v1/analyse", body)
    elif draw.random() < STREAMED:
        asking = _streamed(http, f"{address}/v1/completions", {**body, "stream": True}, found)
    else:
        asking = _whole(http, f"{address}/v1/completions", body)
    try:
        answer = _read(await asyncio.wait_for(asking, patience))
    except TimeoutError:
        found.hung_up += 1
        return None
    found.tokens += len(answer.get("tokens", ()))
    return answer


async def _whole(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> list[Any]:
    return [(await http.post(url, json=body)).raise_for_status().json()]


async def _streamed(http: httpx.AsyncClient, url: str, body: dict[str, Any], found: Found) -> list[Any]:
    """The chunks of a stream; the waits for them are noted."""
    chunks, moments = list[Any](), [time.monotonic()]
    async with http.stream("POST", url, json=body) as answer:
        if answer.is_error:
            await answer.aread()
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunks.append(json.loads(line.removeprefix("data: ")))
            moments.append(time.monotonic())
            if "error" in chunks[-1]:
                raise ValueError(str(chunks[-1]["error"]))
    found.first.append(moments[1] - moments[0])
    found.waits.append(max((b - a for a, b in pairwise(moments[1:])), default=0.0))
    return chunks


def _read(parts: Sequence[Any]) -> Answer:
    """A whole answer, from its parts: the text and what is known of its tokens, or the readings of a text."""
    if "data" in parts[0]:
        dimensions = parts[0]["data"][0]["dimensions"]
        return {"scores": [dimensions[name]["score"] for name in sorted(dimensions)]}
    choices = [choice for part in parts for choice in part["choices"]]
    logprobs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    return {
        "text": "".join(choice["text"] for choice in choices),
        **{name: [each for part in logprobs for each in part[name]] for name in _OF_TOKENS},
    }


_OF_TOKENS = ("tokens", "token_logprobs", "top_logprobs")


def _alone(address: str, body: dict[str, Any]) -> Answer:
    """The answer to a request that has the server for itself."""
    path = "analyse" if "texts" in body else "completions"
    return _read([httpx.post(f"{address}/v1/{path}", json=body, timeout=PATIENCE).raise_for_status().json()])


def _compared(answer: Answer, alone: Answer) -> str:
    """Whether an answer is that of the request alone: ``same``, ``ties`` or ``wrong``."""
    if "scores" in alone:
        pairs = zip(answer["scores"], alone["scores"], strict=True)
        return "same" if all(abs(a - b) <= ROUNDING * (1 + abs(b)) for a, b in pairs) else "wrong"
    pairs = zip(answer["tokens"], alone["tokens"], strict=False)
    parted = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    if parted is None and answer["text"] != alone["text"]:
        return "wrong"
    until = len(alone["tokens"]) if parted is None else parted
    near = zip(answer["token_logprobs"][:until], alone["token_logprobs"][:until], strict=True)
    is_near = all(abs(a - b) <= ROUNDING for a, b in near)
    if parted is None:
        return "same" if is_near else "wrong"
    tops = [each["top_logprobs"][parted] for each in (answer, alone)]
    is_tie = all(abs(tops[0][token] - tops[1][token]) <= ROUNDING for token in tops[0].keys() & tops[1].keys())
    return "ties" if is_near and is_tie and len(tops[0].keys() & tops[1].keys()) > 1 else "wrong"


if __name__ == "__main__":
    app()
