"""Tables of what steers do to text that the model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

# More repeated 3-grams than this share mean that the text loops.
LOOPS = 0.1
# Share of positive continuations and perplexity, of the steer of 2,000 SST-5 texts.
CURVE = "curve closed-form"
MODELS = {"smollm2": "SmolLM2 135M", "gemma3-270m": "Gemma 3 270M"}
ConditionResult = Mapping[str, Any]


def strength_curve() -> str:
    """Positive share and perplexity by strength."""
    return _curve(CURVE)


def strength_curve_inside() -> str:
    """The same of the steer inside the model, with the share of texts that loop."""
    return _curve("curve deep")


def strength_curve_lora() -> str:
    """The same of the LoRA in closed form."""
    return _curve("curve lora")


def _curve(key: str) -> str:
    points = results("main_job")[key]
    base = next(point["perplexity"] for point in points if not point["strength"])
    rows = [
        ["positive share", *(percent(point["positive_share"]) for point in points)],
        ["perplexity, × unsteered", *(_ratio(point["perplexity"] / base) for point in points)],
    ]
    if all("looping" in point for point in points):
        rows.append(["loops", *(f"{100 * point['looping']:.1f} %" for point in points)])
    return table(["strength", *(_signed(point["strength"]) for point in points)], rows)


def sentiment() -> str:
    """Mean score and perplexity on three sets of prompts."""
    neutral, negative, positive = (
        results("pareto")[name]
        for name in (
            "sentiment, neutral prompts",
            "sentiment up, negative prompts",
            "sentiment down, positive prompts",
        )
    )

    def cells(up: str, down: str) -> list[str]:
        sides = ((neutral, up), (neutral, down), (negative, up), (positive, down))
        return [_score(outcomes, name) for outcomes, name in sides]

    rows = [["unsteered", *(short(group[0]["score"]["mean"]) for group in (neutral, neutral, negative, positive))]]
    for strength in (2, 4, 6):
        rows.append([f"steer, ±{strength}", *cells(f"sentiment=+{strength}", f"sentiment=-{strength}")])
    for strength in (1, 2, 4):
        name = f"published recipe, ±{strength}"
        rows.append([name, *cells(f"published recipe=+{strength}", f"published recipe=-{strength}")])
    domain = "published recipe, domain steer on"
    rows.append([f"{domain} (as its code runs), ±0.5", *cells(f"{domain}=+0.5", f"{domain}=-0.5")])
    rows.append(["an instruction before the prompt", *cells("prompt +1", "prompt -1")])
    rows.append(["instruction and steer, ±4", *cells("prompt & sentiment=+4", "prompt & sentiment=-4")])
    rows.append(["word list, 4 nats", *cells("words +4", "words -4")])
    rows.append(["best of eight, by the steer's reading", *cells("best of 8 +1", "best of 8 -1")])
    header = ["", "neutral prompts, up", "neutral prompts, down", "negative prompts, up", "positive prompts, down"]
    return table(header, rows)


def toxicity() -> str:
    """Share of toxic prompts with an offensive continuation, and perplexity."""
    outcomes = results("pareto")["clean language, toxic prompts"]
    by_name = {one["name"]: one for one in outcomes}
    base = outcomes[0]["perplexity"]["mean"]
    recipe = [one for one in outcomes if one["method"] == "published recipe"]
    best = min(recipe, key=lambda one: float(_below(one)["mean"]))["name"]
    labels = {
        "unsteered": "unsteered",
        **{f"toxicity=+{strength}": f"steer, +{strength}" for strength in (2, 4, 6, 8)},
        best: f"published recipe, best of {len(recipe)} strengths",
        "prompt +1": "instruction",
        "prompt & toxicity=+6": "instruction and steer, +6",
        "words +2": "word list, 2 nats",
        "words +4": "word list, 4 nats",
    }
    rows = []
    for name, label in labels.items():
        one = by_name[name]
        ratio = one["perplexity"]["mean"] / base
        share, loops = percent(_below(one)["mean"]), ", loops" if one["rep_3"] > LOOPS else ""
        rows.append([label, share, f"{ratio:.2f}{loops}"])
    return table(["", "prompts with an offensive continuation", "perplexity, × unsteered"], rows)


def growth() -> str:
    """Mean score and perplexity by number of labelled texts."""
    outcomes = results("pareto")["sentiment by number of texts, neutral prompts"]
    strengths = ("-6", "-3", "+3", "+6")
    rows = []
    for count in ("125", "500", "2,000", "8,000"):
        rows.append([f"{count} texts", *(_score(outcomes, f"{count} texts={strength}") for strength in strengths)])
    return table(["steer fitted on", *(f"strength {strength}" for strength in strengths)], rows)


def mixing() -> str:
    """What each of three steers does alone and in their mix."""
    effects = results("mixing")["as they are"]["effects"]
    names = list(effects)
    rows = [[f"{name} alone", *(f"{effects[name]['alone'][other]:+.1f}" for other in names)] for name in names]
    mixed = (f"{one['mixed']:+.1f} ± {one['standard_error']:.1f}" for one in effects.values())
    rows.append(["the mix", *mixed])
    rows.append(["kept of its own effect", *(percent(one["kept"]) for one in effects.values())])
    return table(["", *names], rows)


def transfer() -> str:
    """Steers fitted on a model, and steers transferred to it."""
    measured = results("transfer")
    rows, strengths = [], list[str]()
    for source, target in (("smollm2", "gemma3-270m"), ("gemma3-270m", "smollm2")):
        way = f"{source} -> {target}"
        for label, reading, curve in (
            (f"{MODELS[target]}: its own steer", "own", "own"),
            (f"{MODELS[target]}: transferred from {MODELS[source]}", "gradient, frequency^0.5", "transferred"),
        ):
            one, points = measured[f"{way}: {reading}"], measured[f"curve {way}: {curve}"]
            base = next(point["perplexity"] for point in points if not point["strength"])
            strengths = [_signed(point["strength"]) for point in points]
            cells = [
                f"{percent(point['positive_share'])}"
                + (f" ({point['perplexity'] / base:.2f})" if point["strength"] else "")
                for point in points
            ]
            numbers = [percent(one["sign_accuracy"], 1), short(one["auc"]), f"{one['log_likelihood_gain']:+.3f}"]
            rows.append([label, *numbers, *cells])
    return table(["", "sign accuracy", "AUC", "gain, nats per token", *strengths], rows)


def _score(outcomes: Sequence[ConditionResult], name: str) -> str:
    one = next((each for each in outcomes if each["name"] == name), None)
    if one is None:
        return ""
    ratio = one["perplexity"]["mean"] / outcomes[0]["perplexity"]["mean"]
    loops = ", loops" if one["rep_3"] > LOOPS else ""
    return f"{short(one['score']['mean'])} ({_ratio(ratio)}{loops})"


def _below(outcome: ConditionResult) -> Mapping[str, float]:
    below: Mapping[str, float] = outcome["probability_any_below"]
    return below


def _ratio(value: float) -> str:
    return "1" if value == 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _signed(strength: float) -> str:
    return f"{strength:+g}" if strength else "0"
