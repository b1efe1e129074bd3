"""What a model still knows of grammar under steers and under a trained LoRA, by how far they move its text.

    python -m benchmarks.grammar measure DATA    under each method of ``benchmarks.one_pass`` and the steer that ships
    python -m benchmarks.grammar show            print the table

DATA is the folder of the data files, of which BLiMP's is read. The methods are fitted on the same 512 texts. What they
write was measured before (``benchmarks.one_pass``, and ``benchmarks.contrast`` for the shipped steer); their fits are
read here. A pair is right if the model finds its good sentence likelier. What is kept is the accuracy as a share of
that without a steer; its interval is paired over the pairs. What is done already is kept. Results go to
``results/grammar.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.one_pass import WORK
from benchmarks.results import load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.grammar import EACH, NAMES, SHIPPED, UNSTEERED, key_of, written
from lmsteer.baselines.baseline import Baseline
from lmsteer.baselines.methods import load_baseline
from lmsteer.baselines.steer import SteerBaseline, steer_baseline
from lmsteer.data.minimal_pairs import MinimalPair, read_minimal_pairs
from lmsteer.evaluation.intervals import estimate
from lmsteer.evaluation.minimal_pairs import PairReader, right_pairs
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer

RESULTS = Path(__file__).parent / "results" / "grammar.json"
app = typer.Typer(add_completion=False)


@app.callback()
def _commands() -> None:
    """Several commands."""


@app.command("measure")
def measure(data: Annotated[Path, typer.Argument(help="Folder of the data files.")]) -> None:
    """Read the pairs under each method, at each strength that it has written at."""
    lm, pairs = load(), some_of_each(read_minimal_pairs(data / "blimp_60_of_each.jsonl.gz"))
    for name in NAMES:
        strengths = [s for s in written(name) if key_of(name, s) not in load_results(RESULTS)]
        if not strengths:
            continue
        baseline = steer_baseline(find_steer("sentiment")) if name == SHIPPED else load_baseline(WORK / f"{name}-512")
        for strength, own in _right(lm, baseline, pairs, strengths):
            if not strength:
                right = own.double().numpy()
                save_result(RESULTS, UNSTEERED, {"accuracy": right.mean(), "right": own.int().tolist()})
            else:
                save_result(RESULTS, key_of(name, strength), _kept(own.double().numpy()))


def _right(
    lm: LM, baseline: Baseline, pairs: Sequence[MinimalPair], strengths: Sequence[float]
) -> Iterator[tuple[float, Tensor]]:
    """Which pairs (N,) are right at each strength; a steer of the head reads them once."""
    if isinstance(baseline, SteerBaseline) and not baseline.steer.sites:
        yield from zip(strengths, PairReader(lm, baseline.steer, pairs).right(strengths), strict=True)
        return
    for strength in strengths:
        yield strength, right_pairs(lm, baseline, pairs, strength)


def _kept(right: np.ndarray) -> dict[str, float]:
    """The accuracy on the pairs (N,), and its share of that without a steer."""
    base = np.array(load_results(RESULTS)[UNSTEERED]["right"], dtype=float)
    kept = estimate(lambda own, unsteered, axis: own.mean(axis) / unsteered.mean(axis), right, base)
    return {"accuracy": float(right.mean()), "kept": kept.mean, "low": kept.low, "high": kept.high}


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["grammar"]())


def some_of_each(pairs: list[MinimalPair]) -> list[MinimalPair]:
    """The first pairs of each set of sixty."""
    return [pair for place, pair in enumerate(pairs) if place % 60 < EACH]


if __name__ == "__main__":
    torch.manual_seed(0)
    app()
