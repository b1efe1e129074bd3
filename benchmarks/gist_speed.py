"""How soon the first token comes after a prompt, how much is kept of it, and what it leaves of the context.

    python -m benchmarks.gist_speed measure [ADAPTER]    first tokens by length of prompt and batch
    python -m benchmarks.gist_speed tell                 the table

Three ways, in turn, through the public calls: the prompt read anew with its inputs, its own cache reused, its gist.
Weights, adapter and inputs are the same. Medians; figures go to ``results/gist_speed.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Machine, in_turn
from benchmarks.results import keep, kept
from lmsteer.generation import Draws, generate
from lmsteer.gist.adapter import GistAdapter, find_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.masks import Condition
from lmsteer.lm import LM, load
from lmsteer.sampling import Sampling
from lmsteer.starter import starter_prompts

RESULTS = Path(__file__).parent / "results" / "gist_speed.json"
LENGTHS, BATCHES = (32, 64, 128, 256, 512, 1024), (1, 16)
REPEATS = 7
FIRST = Draws(max_new_tokens=1, sampling=Sampling(temperature=0))
INPUT = "\nInput: The ferry was late, and nobody told us why.\nOutput:"
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(adapter: Annotated[str, typer.Argument(help="Folder, or one that ships.")] = "gist-1") -> None:
    """First tokens by length of prompt and batch."""
    lm, found = load(), find_adapter(adapter)
    machine = Machine.measured()
    keep(RESULTS, "machine", {"GFLOP/s": round(machine.matrix_rate / 1e9), "GB/s": round(machine.bandwidth / 1e9, 1)})
    with found.installed(lm):
        for length in LENGTHS:
            for batch in BATCHES:
                keep(RESULTS, f"{length} tokens, batch {batch}", _line(lm, found, length, batch))


@app.command("tell")
def tell() -> None:
    """The table of what is kept."""
    table = Table("prompt", "read anew", "own cache", "gist", "sooner than anew", "than own cache", "kept, KiB", "gist")
    for key, line in kept(RESULTS).items():
        if "gist_s" in line:
            anew, own, gist = (line[f"{way}_s"] for way in ("anew", "own", "gist"))
            seconds = [f"{1000 * each:.0f} ms" for each in (anew, own, gist)]
            sizes = [f"{line[f'{way}_bytes'] / 1024:,.0f}" for way in ("own", "gist")]
            table.add_row(key, *seconds, f"{anew / gist:.1f} x", f"{own / gist:.2f} x", *sizes)
    Console(width=120).print(table)


def _line(lm: LM, adapter: GistAdapter, length: int, batch: int) -> dict[str, Any]:
    prompt = _prompt(lm, length)
    (gist,) = compress(lm, adapter, [prompt])
    (own,) = compress(lm, adapter, [prompt], condition=Condition.POSITIVE)
    inputs = [INPUT] * batch
    texts = [lm.tokenizer.batch_decode([prompt])[0] + INPUT] * batch

    def anew() -> object:
        return list(generate(lm, texts, max_new_tokens=1, temperature=0))

    def after(kept: Any) -> Callable[[], object]:
        return lambda: list(generate_from_gists(lm, adapter, [kept], inputs, draws=FIRST))

    seconds = in_turn(anew, after(own), after(gist), repeats=REPEATS)
    found = dict(zip(("anew_s", "own_s", "gist_s"), seconds, strict=True))
    left = lm.max_length - gist.origin.end
    return found | {"own_bytes": own.bytes, "gist_bytes": gist.bytes, "left": left, "left_own": lm.max_length - length}


def _prompt(lm: LM, length: int) -> list[int]:
    """Plain English of so many tokens."""
    text = " ".join(starter_prompts())
    ids = lm.encode([text])[0]
    return (ids * (length // len(ids) + 1))[:length]


if __name__ == "__main__":
    app()
