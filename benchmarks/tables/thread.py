"""Tables of one style prompt as itself, as a gist, as a steer, and as a LoRA that is trained to imitate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.markdown import percent, results, table

KIB = 1024
# Results at strength 1: what each is called, its sizes, and the method whose speed ``lmsteer compare`` has measured,
# if it has.
WAYS = {
    "prompt": ("the prompt", "prompt", "prompting"),
    "gist": ("gist of one token", "gist", "gist"),
    "gist before the chat": ("gist, before the chat", "gist", "gist"),
    "tokens-1=+1": ("one token, trained for this prompt", "tokens-1", "prompt-tuning"),
    "tokens-10=+1": ("ten tokens, trained for this prompt", "tokens-10", "prompt-tuning"),
    "steer=+1": ("steer", "steer", "steer"),
    "steer, layer-25=+1": ("steer after layer 25", "steer-layer-25", ""),
    "steer, three-layers=+1": ("steer after layers 15, 20, 25 and at the head", "steer-three-layers", ""),
    "steer, seven-layers=+1": ("steer after layers 9, 12, .. 27 and at the head", "steer-seven-layers", ""),
    "steer, six-loras=+1": ("LoRA of attention and MLP of layers 15, 20 and 25, in closed form", "steer-six-loras", ""),
    "lora-style=+1": ("LoRA of every layer, trained", "lora", "lora"),
}
STRENGTHS = {"-1": -1, "0": 0, "0.5": 0.5, "1": 1, "2": 2}
PAIRS = {
    "prompt and prompt": ("prompt", "prompt, other", "prompt & prompt"),
    "gist of both": ("gist", "", "gist of both"),
    "steer and steer": ("steer=+1", "steer, other=+1", "steer & steer"),
    "prompt and steer": ("prompt", "steer, other=+1", "prompt & steer"),
    "gist and steer": ("gist", "steer, other=+1", "gist & steer"),
    "LoRA and steer": ("lora-style=+1", "steer, other=+1", "lora-style=+1 & steer"),
}


def thread() -> str:
    """How near each comes to the prompted model, what it moves, and what it costs."""
    found, speed = results("thread"), _speeds()
    base, sizes = found["unsteered"], found["sizes"]
    rows = [["nothing", *_quality(base, base), "", "", "", ""]]
    for name, (label, size, method) in WAYS.items():
        if name in found:
            own, times = sizes[size], [f"{each:.2f} x" for each in speed[method]] if method else ["", ""]
            cost = [f"{own['bytes'] / KIB:,.0f} KiB", f"{own.get('context', 0)}"]
            rows.append([label, *_quality(found[name], base), *cost, *times])
    header = ["", "divergence, nats a token", "closed", "mean score", "looping", "size", "context tokens"]
    return table([*header, "time per token", "first token"], rows)


def strengths() -> str:
    """The steer and the LoRA between and beyond 0 and 1: mean score, and perplexity beside unsteered text."""
    found = results("thread")
    base, rows = found["unsteered"], []
    for label, name in (
        ("steer", "steer"),
        ("three layers and the head", "steer, three-layers"),
        ("LoRA in closed form, six linear layers", "steer, six-loras"),
        ("LoRA, trained", "lora-style"),
    ):
        own = [base if not s else found.get(f"{name}={s:+g}") for s in STRENGTHS.values()]
        cells = ["" if one is None else _moved(one, base) for one in own]
        rows.append([label, *cells])
    rows.append(["prompt", "", _moved(base, base), "", _moved(found["prompt"], base), ""])
    return table(["mean score (perplexity, looping)", *STRENGTHS], rows)


def together() -> str:
    """Two styles alone and at once: mean score, and the share of answers that speak of the sea."""
    found = results("thread")
    rows = [["nothing", "", "", _both(found["unsteered"])]]
    for label, names in PAIRS.items():
        if names[-1] in found:
            rows.append([label, *(_both(found[name]) if name in found else "" for name in names)])
    return table(["mean score, share that speaks of the sea", "first alone", "second alone", "both"], rows)


def _quality(one: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    left, whole = one["divergence"], base["divergence"]
    closed = "" if one is base else percent(1 - left / whole)
    return [f"{left:.3f}", closed, f"{_score(one):.2f}", percent(one["looping"]["mean"])]


def _moved(one: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    ratio = one["perplexity"]["mean"] / base["perplexity"]["mean"]
    return f"{_score(one):.2f} ({ratio:.2f} ×, {percent(one['looping']['mean'])})"


def _both(one: Mapping[str, Any]) -> str:
    return f"{_score(one):.2f}, {percent(one['sea'])}"


def _score(one: Mapping[str, Any]) -> float:
    score: float = one["mean_score"]["sentiment"]
    return score


def _speeds() -> dict[str, tuple[float, float]]:
    summary = results("comparison")["sentiment"]["summary"]
    return {one["method"]: (one["time_per_token"], one["time_to_first_token"]) for one in summary}
