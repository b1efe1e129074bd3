"""Where a steer acts: windows, ramps and holds of the shipped sentiment steer, by the steer's own reading of the text.

    python -m benchmarks.where write    continuations under every strength
    python -m benchmarks.where show     print the table

Results go to ``results/where.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from benchmarks.results import check_known, load_results, save_result
from benchmarks.tables.markdown import table
from lmsteer.data.starter import starter_prompts
from lmsteer.evaluation.metrics import rep_3
from lmsteer.evaluation.scorers import scorer
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate, perplexity
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer
from lmsteer.steer.notation import parse_strengths
from lmsteer.steer.platt import PlattScaling

RESULTS = Path(__file__).parent / "results" / "where.json"
NAME = "sentiment"
CONFIG = GenerationConfig(num_samples=2, max_new_tokens=40, score=True, readings=True)
PROMPTS = 8
# The numbers of tokens after which the reading is shown.
AFTER = (10, 20, 40)
STRENGTHS = ("0", "3", "3@..10", "3@10..")
HOLDS = ("0.2", "0.8")
app = typer.Typer(add_completion=False)


@app.command("write")
def write_all(
    names: Annotated[
        list[str] | None, typer.Argument(help="Of some strengths ('3@..10') and holds ('hold 0.8').")
    ] = None,
    results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """Continuations of neutral prompts under every strength and hold, or under some."""
    everything = {
        **{each: ([f"{NAME}={each}"], ()) for each in STRENGTHS},
        **{f"hold {h}": ((), [f"{NAME}={h}"]) for h in HOLDS},
    }
    check_known(names, everything)
    lm, steer, judge = load(), find_steer(NAME), scorer("sentiment-vader")
    platt = PlattScaling.from_held_out(steer.card.held_out)
    assert platt is not None
    for name in names or everything:
        _, settings = parse_strengths(everything[name][0], lambda _: steer.card, everything[name][1])
        written = [*generate(lm, starter_prompts()[:PROMPTS], {NAME: steer}, settings, CONFIG)]
        save_result(results, name, _figures(written, platt, fmean(judge.scores([each.text for each in written]))))


def _figures(written: Sequence[Continuation], platt: PlattScaling, score: float) -> dict[str, Any]:
    evidence = [[reading.total_evidence[NAME] for reading in each.readings] for each in written]
    read = {after: [platt.probability(own[:after][-1]) for own in evidence] for after in AFTER}
    return {
        "reading": {str(after): round(fmean(own), 4) for after, own in read.items()},
        "spread": {str(after): round(stdev(own), 4) for after, own in read.items()},
        "score": round(score, 4),
        "perplexity": round(perplexity(written), 3),
        "rep_3": round(fmean(rep_3(each.text) for each in written), 4),
        "kl": round(fmean(reading.kl for each in written for reading in each.readings), 4),
        "continuations": len(written),
    }


@app.command("show")
def show(results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS) -> None:
    """Print the table."""
    print(where_table(load_results(results)))


def where_table(found: dict[str, dict[str, Any]]) -> str:
    """The reading on the way, the score of the text, and what it costs, under every strength."""
    base = found["0"]["perplexity"]
    header = [
        "",
        *(f"reading after {after}" for after in AFTER),
        "mean score, VADER",
        "perplexity",
        "rep-3",
        "KL a token",
    ]
    rows = [
        [
            name if name != "0" else "unsteered",
            *(f"{one['reading'][str(after)]:.2f} ± {one['spread'][str(after)]:.2f}" for after in AFTER),
            f"{one['score']:.2f}",
            f"{one['perplexity'] / base:.2f} ×",
            f"{one['rep_3']:.3f}",
            f"{one['kl']:.2f}",
        ]
        for name, one in found.items()
    ]
    return table(header, rows)


if __name__ == "__main__":
    app()
