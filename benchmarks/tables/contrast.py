"""The table of a steer from two sentences, beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

NAMES = {
    "steer": "steer from two sentences",
    "inside": "deep steer from two sentences",
    "shipped": "shipped steer, 8,538 labelled texts",
    "both": "steer and the shipped one, each at the strength",
    "inside and shipped": "deep steer and the shipped one, each at the strength",
    "activations": "activation addition, same texts",
    "prompt": "the prompt itself",
    "token": "contrastive prompting at each token",
    "guidance": "guidance by the prompt",
    "greedier": "unsteered, top-p 0.5",
}


def contrast() -> str:
    """Positive share by both scorers, perplexity, loops and variety of every method at its strengths."""
    found = results("contrast")
    base = found["unsteered"]
    rows = [["unsteered", "", *_cells(base, base)]]
    for label in NAMES.values():
        own = sorted((one for one in found.values() if one.get("method") == label), key=lambda one: one["strength"])
        rows += [[label, f"{one['strength']:+g}", *_cells(one, base)] for one in own]
    header = ["", "strength", "positive, VADER", "positive, packaged scorer", "perplexity", "looping", "distinct-2"]
    return table(header, rows)


def _cells(one: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    shares = (percent(one["positive"][name]["mean"], 1) for name in ("sentiment-vader", "sentiment"))
    ratio = one["perplexity"]["mean"] / base["perplexity"]["mean"]
    return [*shares, f"{ratio:.2f} ×", percent(one["looping"]["mean"], 1), short(one["distinct_2"])]
