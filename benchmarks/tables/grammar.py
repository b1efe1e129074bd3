"""The table of what is kept of grammar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, table
from benchmarks.tables.one_pass import NAMES as ONE_PASS
from benchmarks.tables.one_pass import SIZES

SHIPPED, UNSTEERED = "shipped", "unsteered"
# Pairs of each of the 67 sets.
EACH = 10
NAMES = {**{name: f"{label}, {SIZES[0]:,} texts" for name, label in ONE_PASS.items()}, SHIPPED: "shipped steer"}


def key_of(name: str, strength: float) -> str:
    """The key of a method at a strength among the results."""
    return f"{name}, {strength:+g}" if strength else UNSTEERED


def written(name: str) -> dict[float, Mapping[str, Any]]:
    """What a method has written at each strength, the largest first; at 0 what the model writes without one."""
    found = results("contrast" if name == SHIPPED else "one_pass")
    keys = {strength: f"shipped={strength:+g}" for strength in (-6.0, 6.0, -4.0, 4.0)}
    if name != SHIPPED:
        keys = {one["strength"]: key for key, one in found.items() if one.get("method") == NAMES[name]}
    by_size = sorted(keys, key=lambda strength: (-abs(strength), strength))
    return {
        0.0: found[UNSTEERED],
        **{strength: found[keys[strength]] for strength in by_size if keys[strength] in found},
    }


def grammar() -> str:
    """What each method moves, at which perplexity, and the share of the pairs that stays right."""
    found, rows = results("grammar"), []
    for name, label in NAMES.items():
        own = written(name)
        base = own[0.0]["perplexity"]["mean"]
        for strength in sorted(own):
            kept = found.get(key_of(name, strength))
            if strength and kept is not None:
                positive = percent(own[strength]["positive"]["sentiment-vader"]["mean"])
                ratio = f"{own[strength]['perplexity']['mean'] / base:.2f} ×"
                share = f"{kept['kept']:.1%} ({kept['low']:.1%} to {kept['high']:.1%})"
                rows.append([label, f"{strength:+g}", positive, ratio, share])
    return table(["", "strength", "positive", "perplexity", "grammar kept"], rows)
