"""Tables of gist tokens: how fast, how small, and how much of a prompt they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.tables.markdown import percent, results, seconds, short, table, times

KIB = 1024
LENGTHS, BATCHES = (32, 64, 128, 256, 512, 1024), (1, 16)
MORE_TOKENS = (1, 2, 5, 10)
# Of tables: under which name results are kept, and what the row is called.
WAYS = {
    "whole prompt": "whole prompt",
    "gist, 1 token": "gist of one token",
    "gist, 2 tokens": "gist of two",
    "gist, 5 tokens": "gist of five",
    "gist, 10 tokens": "gist of ten",
    "first 5 words": "the first five words",
    "first 2 words": "the first two words",
    "no prompt": "no prompt",
}
TRAINED = ("cartridge", "prefix tuning", "prompt tuning")


def gap_closed(gist: float, whole: float, none: float) -> float:
    """The share of a prompt's benefit that its gist brings, by losses."""
    return (none - gist) / (none - whole)


def speed() -> str:
    """Time to the first token, and size, by length of the prompt."""
    measured, rows = results("gist_speed"), []
    for length in LENGTHS:
        for batch in BATCHES:
            line = measured[f"gist-1, {length} tokens, batch {batch}"]
            anew, own, gist = (line[f"{way}_s"] for way in ("anew", "own", "gist"))
            sizes = [f"{line[f'{way}_bytes'] / KIB:,.0f} KiB" for way in ("own", "gist")] if batch == 1 else ["", ""]
            what = f"{length:,} tokens, batch of {batch}"
            rows.append([what, *map(seconds, (anew, own, gist)), times(anew / gist), times(own / gist), *sizes])
    header = ["prompt", "read again", "its own cache", "gist", "gist against reading", "gist against cache"]
    return table([*header, "cache size", "gist size"], rows)


def speed_by_tokens() -> str:
    """The same for more gist tokens, after a prompt of 256 tokens."""
    measured, rows = results("gist_speed"), []
    for tokens in MORE_TOKENS:
        cells = []
        for batch in BATCHES:
            line = measured[f"gist-{tokens}, 256 tokens, batch {batch}"]
            cells += [times(line[f"{way}_s"] / line["gist_s"]) for way in ("anew", "own")]
        rows.append([f"{tokens}", *cells])
    header = ["gist tokens", "against reading, batch of 1", "against cache", "against reading, batch of 16"]
    return table([*header, "against cache"], rows)


def seen() -> str:
    """Quality on instructions that the fit has met."""
    return _quality("seen")


def unseen() -> str:
    """Quality on instructions that the fit has not met."""
    return _quality("unseen")


def human() -> str:
    """Quality on tasks written by people."""
    return _quality("human")


def baselines() -> str:
    """Gists beside methods that are trained for one prompt."""
    measured, rows = results("gist_baselines"), []
    lines = {name: measured[name] for name in ("whole prompt", "gist, 1 token", "gist, 5 tokens")}
    for method in TRAINED:
        lines[method] = joined([one for key, one in measured.items() if key.startswith(f"{method}, ")])
    lines["no prompt"] = measured["no prompt"]
    for name, one in lines.items():
        is_gist, trained = name.startswith("gist"), "trained_on" in one
        size = "" if name == "no prompt" else f"{one['cache_bytes'] / KIB:,.0f} KiB"
        rows.append(
            [
                WAYS.get(name, name),
                short(one["loss"]),
                short(one["rouge_l"]),
                percent(one["exact"], 1),
                f"{one['trained_on']:.0f}" if trained else "none" if is_gist else "",
                f"{one['seconds']:.0f} s" if trained else "one pass" if is_gist else "",
                size,
            ]
        )
    header = ["", "loss, nats per token", "ROUGE-L", "exact", "examples of the task", "made in", "size"]
    return table(header, rows)


def prompts() -> str:
    """Three long prompts, and what is written under their gists."""
    measured = results("gist_prompts")
    shown = ("whole prompt", "gist, 1 token", "gist, 5 tokens", "gist, 10 tokens", "no prompt")
    rows = []
    for name in shown:
        texts = [", ".join(text.strip() or "(nothing)" for text in one[name]["texts"]) for one in measured.values()]
        sizes = [one[name]["bytes"] / KIB for one in measured.values()]
        size = "" if name == "no prompt" else f"{min(sizes):,.0f} KiB"
        if max(sizes) > min(sizes):
            size = f"{min(sizes):,.0f} to {max(sizes):,.0f} KiB"
        rows.append([WAYS[name], size, *texts])
    header = ["", "size", "translate: house, water, dog, school, green", "opposite: cold, early, rich, inside, happy"]
    return table([*header, "mood of four entries (positive, negative, positive, negative)"], rows)


def joined(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One line of several tasks: the loss is a mean over tokens, the others are means over rows or prompts."""
    rows, targets = sum(one["examples"] for one in lines), sum(one["targets"] for one in lines)
    by_rows = {name: sum(one[name] * one["examples"] for one in lines) / rows for name in ("rouge_l", "exact")}
    by_prompts = {name: fmean(one[name] for one in lines) for name in ("trained_on", "seconds", "cache_bytes")}
    return {"examples": rows, "loss": sum(one["loss"] for one in lines) / targets, **by_rows, **by_prompts}


def _quality(split: str, fitted: str = "") -> str:
    measured: Mapping[str, Any] = results("gists")
    whole, none = (measured[f"{end}{fitted}, {split}"]["loss"] for end in ("whole prompt", "no prompt"))
    rows = []
    for name, label in WAYS.items():
        if (one := measured.get(f"{name}{fitted}, {split}")) is None:
            continue
        rows.append(
            [
                label,
                f"{one['loss']:.3f}",
                percent(gap_closed(one["loss"], whole, none)),
                short(one["rouge_l"]),
                percent(one["exact"], 1),
                "" if name == "no prompt" else f"{one['cache_bytes'] / KIB:,.0f} KiB",
            ]
        )
    count = measured[f"no prompt{fitted}, {split}"]["examples"]
    return table([f"{split}, {count} rows", "loss, nats per token", "gap closed", "ROUGE-L", "exact", "size"], rows)
