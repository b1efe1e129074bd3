"""vLLM with a steer on every row beside vLLM as it comes: tokens a second in alternating runs.

    .venv-vllm/bin/python -m benchmarks.vllm_speed

One engine in one process, which holds the plugin throughout: rows that ask for no steer run vLLM's own code. Greedy
decoding of batches of 32, each run both ways. Results go to ``results/vllm_speed.json``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import typer

from benchmarks.results import save_result
from lmsteer.data.starter import starter_prompts
from lmsteer.model.sources.resolve import resolve
from lmsteer.steer.lookup import SHIPPED_FOLDER

RESULTS = Path(__file__).parent / "results" / "vllm_speed.json"
BATCH, TOKENS, RUNS = 32, 48, 7
WAYS = {"unsteered": None, "one steer": "sentiment=2", "three steers": "sentiment=2,toxicity=1,politeness=-1"}


def main() -> None:
    """Measure."""
    os.environ["LMSTEER_STEERS"] = str(SHIPPED_FOLDER)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams

    llm = LLM(str(resolve("smollm2").location), dtype="float32", max_model_len=512, enforce_eager=True)
    prompts = starter_prompts()[:BATCH]

    def run(asked: str | None) -> float:
        args: dict[str, Any] | None = {"steers": asked} if asked else None
        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, extra_args=args)
        started = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(each.outputs[0].token_ids) for each in outputs) / (time.perf_counter() - started)

    for asked in WAYS.values():
        run(asked)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(RUNS):
        for name, asked in WAYS.items():
            rates[name].append(run(asked))
    plain = rates["unsteered"]
    for name, each in rates.items():
        ratios = [own / other for own, other in zip(each, plain, strict=True)]
        figures = {"tokens/s": round(median(each), 1), "of unsteered": round(median(ratios), 3), "runs": each}
        save_result(RESULTS, name, figures)


if __name__ == "__main__":
    typer.run(main)
