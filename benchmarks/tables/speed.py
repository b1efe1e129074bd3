"""Tables of speed and memory beside the published loops."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.markdown import percent, results, table

# Steps of the published recipe.
STEPS = 1000


def lines() -> str:
    """One line for each thing that is timed."""
    rows = []
    for line in results("speed")["lines"].values():
        floor = "" if line["floor"] is None else percent(line["floor"] / line["ours"])
        naive, ours = (f"{line[way]:,.2f} s" for way in ("naive", "ours"))
        memory = [_megabytes(line[key]) for key in ("naive_bytes", "our_bytes")]
        rows.append([line["what"], naive, ours, f"{line['naive'] / line['ours']:.1f} x", floor, *memory])
    header = ["", "published", "lmsteer", "speed-up", "share of the floor", "memory, published", "memory, lmsteer"]
    return table(header, rows)


def fits() -> str:
    """Fits of SST-5 texts, by their number."""
    measured: Any = results("speed")
    step = measured["lines"]["recipe_step"]["naive"]
    rows = [
        [
            f"{fit['texts']:,}",
            f"{fit['seconds']:.0f} s",
            f"{STEPS * step / fit['seconds']:.1f} x",
            percent(fit["sign_accuracy"], 1),
            f"{fit['log_likelihood_gain']:+.3f}",
            _megabytes(fit["peak"]),
        ]
        for fit in measured["fits"]
    ]
    header = ["SST-5 texts", "time", "speed-up", "SST-2 dev: sign accuracy", "gain, nats per token", "memory"]
    return table(header, rows)


def _megabytes(size: float | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f} MB"
