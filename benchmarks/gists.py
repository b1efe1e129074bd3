"""Gists on the default model: fits of several sizes and their controls, what they keep, and how soon they start.

    python -m benchmarks.gists fit DATA      every adapter
    python -m benchmarks.gists write DATA    outputs of held-out instructions under each, and under plainer ways
    python -m benchmarks.gists tell          the tables, and docs/gist-curve.svg

DATA is the folder of the data files. What is done already is kept. Figures go to ``results/gists.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmsteer.gist.examples import read_instructions
from lmsteer.gist.fit import Settings, fit_gist
from lmsteer.gist.masks import Condition
from lmsteer.lm import load
from lmsteer.progress import bars

HERE = Path(__file__).parent
WORK = HERE / "results" / "work" / "gists"
FITS = {
    "gist-1": Settings(1),
    "positive": Settings(1, condition=Condition.POSITIVE),
    "negative": Settings(1, condition=Condition.NEGATIVE),
    "gist-10": Settings(10),
    "gist-5": Settings(5),
    "gist-2": Settings(2),
}
EVERY = 50
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.command("fit")
def fit_all(data: Data) -> None:
    """Fit every adapter."""
    lm = load()
    instructions = read_instructions(data / "instructions_train.jsonl.gz")
    seen = read_instructions(data / "instructions_val_seen.jsonl.gz")
    for name, settings in FITS.items():
        if not (out := WORK / name).exists():
            fit_gist(lm, instructions, out, settings=settings, held_out=seen, every=EVERY, resume=True, progress=bars())


if __name__ == "__main__":
    app()
