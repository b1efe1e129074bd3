"""The table of a LoRA from one pass beside a trained one and beside steers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

NAMES = {
    "head": "steer of the head",
    "deep": "steer after the middle layer",
    "one-pass": "LoRA of rank 8 at twenty layers, in closed form",
    "trained": "the same LoRA, trained",
}
SIZES = (512,)
UNSTEERED = "unsteered"


def of_fit(name: str, count: int) -> str:
    """The key of a fit among the results."""
    return f"fit {name} from {count}"


def one_pass() -> str:
    """Seconds of fit, contrast and gain on unseen texts, and what is written at each strength."""
    found, rows = results("one_pass"), list[list[str]]()
    base = found[UNSTEERED]
    for name, label in NAMES.items():
        for count in SIZES:
            fit = found.get(of_fit(name, count))
            if fit is None:
                continue
            method = f"{label}, {count:,} texts"
            own = sorted(
                (one for one in found.values() if one.get("method") == method), key=lambda one: one["strength"]
            )
            rows.append(
                [
                    label,
                    f"{count:,}",
                    f"{fit['seconds']:,.0f} s",
                    short(fit["contrast"]),
                    f"{fit['log_likelihood_gain']:+.3f}",
                    *(_best(own, base, sign) for sign in (1, -1)),
                ]
            )
    return table(["", "texts", "fit", "contrast", "gain", "+ side", "- side"], rows)


def _best(points: list[Mapping[str, Any]], base: Mapping[str, Any], sign: int) -> str:
    """Positive share by both scorers at a multiple of the perplexity, at each strength of a side."""
    own = sorted((one for one in points if one["strength"] * sign > 0), key=lambda one: abs(one["strength"]))
    cells = []
    for one in own:
        ratio = one["perplexity"]["mean"] / base["perplexity"]["mean"]
        vader, packaged = (percent(one["positive"][name]["mean"]) for name in ("sentiment-vader", "sentiment"))
        loops = one["looping"]["mean"]
        cells.append(f"{vader} ({packaged}) at {ratio:.2f} ×" + (f" ({percent(loops)} loop)" if loops >= 0.05 else ""))
    return ", ".join(cells)
