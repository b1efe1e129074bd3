"""Tables of wishes: what the steer of each moves, in standard deviations of unsteered text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, table
from lmsteer.data.wishes import Wish, wishes

KINDS = ("plain", "chat")
ENDS = ("negative", "positive")
# A text loops if more than this share of its 3-grams stood in it before.
LOOPS = 0.1
# Perplexity may rise to this multiple of that of unsteered text, and this share of the texts may loop.
PERPLEXITY, FEW_LOOP = 1.2, 0.05
MODEL = "smollm2"


def unsteered_key(model: str, kind: str) -> str:
    """The key of the results of unsteered text."""
    return f"{model}, {kind}, unsteered"


def wish_key(model: str, kind: str, wish: str) -> str:
    """The key of the results of a wish."""
    return f"{model}, {kind}, {wish}"


def shifts(record: Mapping[str, Any], unsteered: Mapping[str, Any]) -> dict[str, float]:
    """How far each measure has moved, in standard deviations of an unsteered text; nan where those do not vary."""
    return {
        name: (mean - unsteered["means"][name]) / deviation
        if (deviation := unsteered["deviations"][name])
        else math.nan
        for name, mean in record["means"].items()
    }


def ratio(record: Mapping[str, Any], unsteered: Mapping[str, Any]) -> float:
    """Perplexity as a multiple of that of unsteered text."""
    return math.exp(unsteered["log_likelihood"] - record["log_likelihood"])


def measured_wishes(found: Mapping[str, Any], kind: str, model: str = MODEL) -> list[Wish]:
    """The wishes that have results."""
    return [wish for wish in wishes() if wish_key(model, kind, wish.name) in found]


def own_shifts(found: Mapping[str, Any], wish: Wish, model: str = MODEL) -> dict[str, dict[str, float]]:
    """How far the steer of a wish moves the wish's measure, by kind of text and end."""
    moved: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        unsteered, own = found[unsteered_key(model, kind)], found[wish_key(model, kind, wish.name)]
        moved[kind] = {end: round(shifts(own[end]["steered"], unsteered)[wish.scorer], 2) for end in ENDS}
    return moved


def shipped_wishes(found: Mapping[str, Any]) -> list[Wish]:
    """The wishes whose steers ship: in both kinds of text, one end moves the measure as it should, at a fair price."""
    complete = [wish for wish in measured_wishes(found, KINDS[-1]) if wish.scorer]
    return [wish for wish in complete if all(_holds_up(found, wish, kind) for kind in KINDS)]


def _holds_up(found: Mapping[str, Any], wish: Wish, kind: str) -> bool:
    """Whether an end moves the wish's measure by a deviation of a text, at ``PERPLEXITY`` and ``FEW_LOOP`` at most."""
    unsteered, own = found[unsteered_key(MODEL, kind)], found[wish_key(MODEL, kind, wish.name)]
    for end, sign in zip(ENDS, (-1, 1), strict=True):
        steered = own[end]["steered"]
        moved = sign * wish.direction * shifts(steered, unsteered)[wish.scorer]
        if moved >= 1 and ratio(steered, unsteered) <= PERPLEXITY and steered["looping"] <= FEW_LOOP:
            return True
    return False


def plain() -> str:
    """The wishes in plain text."""
    return _own_measures("plain")


def chat() -> str:
    """The wishes in chats."""
    return _own_measures("chat")


def _own_measures(kind: str) -> str:
    """How far each wish moves its own measure: by its steer at both ends, and by its words."""
    found = results("wishes")
    unsteered = found[unsteered_key(MODEL, kind)]
    rows = []
    for wish in measured_wishes(found, kind):
        own = found[wish_key(MODEL, kind, wish.name)]
        row = [wish.name, wish.scorer or "none"]
        for end in ENDS:
            steered, asked = own[end]["steered"], own[end]["asked"]
            moved = [f"{shifts(each, unsteered)[wish.scorer]:+.1f}" if wish.scorer else "" for each in (steered, asked)]
            row += [f"{own[end]['strength']:+.3g}", moved[0], f"{ratio(steered, unsteered):.2f}"]
            row += [percent(steered["looping"]), moved[1]]
        rows.append(row)
    header = ["wish", "measure"]
    for sign in "-+":
        header += [f"strength {sign}", "moved", "perplexity ×", "loops", "by words"]
    return table(header, rows)
