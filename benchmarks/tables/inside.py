"""The table of steers inside the model beside the head's, on more dimensions and one more model."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

# By the name of the choice of sites, as ``lmsteer fit --sites`` takes it.
SITES = {"head": "head", "lora": "linear layers (`lora`)", "deep": "the middle layer (`deep`)"}
TITLES = {"toxicity": "clean language", "politeness": "polite requests", "gemma": "sentiment, Gemma 3 270M"}
TEXTS = 512
UNSTEERED = "unsteered"
# The share of repeated runs of three words from which a table tells it.
_LOOPS = 0.03


def of_fit(name: str, sites: str) -> str:
    """The key of a fit among the results."""
    return f"{name}, {sites}, fit"


def of_strength(name: str, sites: str, strength: float) -> str:
    """The key of what is written under a strength."""
    return f"{name}, {sites}, {strength:+g}"


def inside() -> str:
    """Contrast and gain on unseen texts, and the mean score at a multiple of the perplexity at each strength."""
    found, rows = results("inside"), list[list[str]]()
    for name, title in TITLES.items():
        if (base := found.get(of_strength(name, UNSTEERED, 0.0))) is None:
            continue
        for sites, label in SITES.items():
            if (fit := found.get(of_fit(name, sites))) is None:
                continue
            own = [one for key, one in found.items() if key.startswith(f"{name}, {sites}, ") and "perplexity" in one]
            sides = [
                ", ".join(
                    _point(one, base)
                    for one in sorted(own, key=lambda one: abs(one["strength"]))
                    if one["strength"] * sign > 0
                )
                for sign in (1, -1)
            ]
            start = f"{base['score']['mean']:.2f}"
            rows.append(
                [
                    title,
                    label,
                    short(fit["contrast"]),
                    f"{fit['log_likelihood_gain']:+.3f}",
                    start,
                    *(s or "-" for s in sides),
                ]
            )
    return table(["", "sites", "contrast", "gain", "unsteered", "+ side", "- side"], rows)


def _point(one: dict[str, Any], base: dict[str, Any]) -> str:
    ratio = one["perplexity"]["mean"] / base["perplexity"]["mean"]
    loops = f" ({percent(one['rep_3'])} repeated)" if one["rep_3"] >= _LOOPS else ""
    return f"{one['score']['mean']:.2f} at {ratio:.2f} ×{loops}"
