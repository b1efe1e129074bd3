"""A stream of ten million tokens through a fit: what memory it takes on the way.

    python -m benchmarks.stream measure     read it, and write results/stream.json
    python -m benchmarks.stream show        print the table

The model is tiny and has random weights, its tokens are bytes, and the texts are made while they are read: so what
grows with their number can only be what the fit keeps of them.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import psutil
import torch
import typer

from benchmarks.gpu import TINY_SHAPE, byte_tokenizer
from benchmarks.results import replace_results
from benchmarks.shapes import random_model
from benchmarks.tables import TABLES
from lmsteer.data.labelled import LabelledText
from lmsteer.fitting.gather import gather
from lmsteer.model.lm import LM
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results" / "stream.json"
WORDS = {
    1: ("good", "fine", "warm", "glad", "kind"),
    -1: ("bad", "poor", "cold", "sad", "rude"),
    0: ("the", "house", "rain", "and", "we", "river", "walked", "table", "seven", "of"),
}
# Rows of a window, and words of a text.
WINDOW, LENGTH = 1024, 40
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens.")] = 10_000_000,
    results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """Read the stream, and look at the resident memory after each window."""
    lm = LM(random_model(TINY_SHAPE, TINY_SHAPE.layers, torch.device("cpu")), byte_tokenizer(), "random")
    seen: list[dict[str, int]] = []
    with TemporaryDirectory() as folder:
        found = gather(lm, _windows(tokens, seen), Path(folder) / "stats", progress=bars())
    record: dict[str, Any] = {"tokens": found.counts.tokens, "texts": found.texts, "memory": seen}
    replace_results(results, record)
    print(f"{found.texts:,} texts, {found.counts.tokens:,} tokens", seen[-1])


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["stream"]())


def _windows(tokens: int, seen: list[dict[str, int]]) -> Iterator[Sequence[LabelledText]]:
    """Texts of either end, each of its own, until there are so many bytes; the memory is noted before each window."""
    rng, made = random.Random(0), 0
    while made < tokens:
        gc.collect()
        seen.append({"tokens": made, "bytes": psutil.Process().memory_info().rss})
        window = [_text(rng) for _ in range(WINDOW)]
        made += sum(len(text.text) for text in window)
        yield window


def _text(rng: random.Random) -> LabelledText:
    label = rng.choice((-1, 1))
    words = [rng.choice(WORDS[label] if rng.random() < 0.2 else WORDS[0]) for _ in range(LENGTH)]
    return LabelledText(" ".join(words), float(label))


if __name__ == "__main__":
    app()
