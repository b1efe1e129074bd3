"""What limits, readings and sites cost of a token: decoding with each of them beside decoding with a steer of the head.

    OMP_NUM_THREADS=1 python -m benchmarks.token_cost measure    the ways in turn, in one process
    python -m benchmarks.token_cost show                         print the table

Rows are steered alternately up and down. Of each way the fastest step counts, since other work on the machine only adds
to a step. Results go to ``results/token_cost.json``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.measure import seconds
from benchmarks.results import save_result
from benchmarks.tables import TABLES
from lmsteer.generation.config import NO_LIMITS, Limits
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.row import Row, row_noise
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer
from lmsteer.steer.sites import match_sites
from lmsteer.steer.steer import Steer

RESULTS = Path(__file__).parent / "results" / "token_cost.json"
PROMPT, STRENGTH, TOKENS = "I went to the new restaurant on the corner and", 4.0, 8
ROWS = (1, 25)
HEAD = "head"
# Patterns of sites inside the model, and the rank of the maps there.
SITES = {
    "layers.15, rank 64": (["layers.15"], 64),
    "layers.15, rank 256": (["layers.15"], 256),
    "3 streams, rank 256": (["layers.10", "layers.15", "layers.20"], 256),
    "20 linear layers, rank 8": (["layers.1*.self_attn.o_proj", "layers.1*.mlp.down_proj"], 8),
    "30 down_proj, rank 64": (["layers.*.mlp.down_proj"], 64),
}
# Steer, limits and readings of each way.
WAYS: dict[str, tuple[str, Limits, bool]] = {
    "unsteered": ("", NO_LIMITS, False),
    "steered": (HEAD, NO_LIMITS, False),
    "plausible 0.05": (HEAD, Limits(plausible=0.05), False),
    "fresh 20": (HEAD, Limits(fresh=20), False),
    "kl 1": (HEAD, Limits(kl=1.0), False),
    "all limits": (HEAD, Limits(0.05, 20, 1.0), False),
    "readings": (HEAD, NO_LIMITS, True),
    "all limits, readings": (HEAD, Limits(0.05, 20, 1.0), True),
    **{name: (name, NO_LIMITS, False) for name in SITES},
}
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds, each of them all ways in turn.")] = 9,
    results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """Measure every way at every number of rows."""
    lm = load()
    steers = {
        "": {},
        HEAD: {"s": find_steer("sentiment")},
        **{name: {"s": _inside(lm, *SITES[name])} for name in SITES},
    }
    for rows in ROWS:
        fastest = dict.fromkeys(WAYS, math.inf)
        for _ in range(rounds):
            for name in WAYS:
                fastest[name] = min(fastest[name], _seconds(lm, rows, steers[WAYS[name][0]], *WAYS[name][1:]))
        figures = {name: {"seconds": own, "ratio": own / fastest["steered"]} for name, own in fastest.items()}
        save_result(results, str(rows), {"threads": torch.get_num_threads(), "rounds": rounds, "ways": figures})


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["token-cost"]())


def _inside(lm: LM, patterns: list[str], rank: int) -> Steer:
    """A steer of sites inside the model that moves nothing: it takes the time of any other."""
    vocabulary, hidden_size = lm.head.weight.shape
    factors = {name: torch.zeros(hidden_size, 0) for name in ("A", "B")}
    for site in match_sites(lm.model, patterns):
        factors |= {f"{site.name}.A": torch.zeros(site.inputs, rank), f"{site.name}.B": torch.zeros(site.outputs, rank)}
    return Steer("multiply", factors, hidden_size, vocabulary, lm.card("none"))


def _seconds(lm: LM, count: int, steers: dict[str, Steer], limits: Limits, readings: bool) -> float:
    """The time of the fastest step of some rows."""
    ids, decoder = lm.encode([PROMPT])[0], Decoder(lm)
    rows = [
        Row(
            Start(ids),
            row_noise(0, 0, k, TOKENS),
            steers,
            dict.fromkeys(steers, STRENGTH * (-1) ** k),
            limits=limits,
            readings=readings,
        )
        for k in range(count)
    ]
    decoder.admit(rows)
    decoder.step()  # whatever is made once is made
    return min(seconds(decoder.step) for _ in range(TOKENS - 1))


if __name__ == "__main__":
    app()
