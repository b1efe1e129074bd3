"""Tables of the claims about steers, LoRAs and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.tables.markdown import percent, results, short, table

RANKS = (1, 4, 16, 64)
TOKENS = (1, 2, 4, 8, 16, 32, 64)
SIZES = (8, 32, 128, 512, 2048)
SEEDS = range(3)


def of_seeds(measured: Mapping[str, Any], key: str) -> list[Mapping[str, float]]:
    """Results of one key, or of that key with each seed; fits that failed are left out."""
    keys = (key, *(f"{key}, seed {seed}" for seed in SEEDS))
    return [measured[each] for each in keys if "contrast" in measured.get(each, ())]


def lora_on_the_head() -> str:
    """Claim (a)."""
    one = results("claims")["a, steer and LoRA on the head"]
    gap, moved = one["largest difference, nats"], one["the steer moves by, nats"]
    return table(
        ["log-probabilities, nats", "largest value"],
        [
            ["the LoRA (in plain PEFT) against the steer", f"{gap:.0e}".replace("e-0", "e-")],
            ["the steer against the unsteered model", f"{moved:.1f}"],
        ],
    )


def lora_on_the_last_value_matrix() -> str:
    """Claim (b)."""
    measured = results("claims")
    lines = [measured[f"b, LoRA on the last value matrix of rank {rank}"] for rank in RANKS]
    return table(
        ["share of the steer's effect that is missing", *(f"rank {rank}" for rank in RANKS)],
        [
            ["by KL divergence", *(percent(line["share left"]) for line in lines)],
            ["by logits over the whole vocabulary", *(percent(line["share left, of logits"]) for line in lines)],
        ],
    )


def rank() -> str:
    """Claims (c) and (f)."""
    measured = results("claims")
    lines = {
        "steer": "c, steer of rank {}",
        "LoRA on the head": "c, LoRA on the head of rank {}",
        "LoRA on every layer, trained": "c, LoRA everywhere of rank {}",
        "LoRA on every layer, in closed form": "c, one-pass LoRA everywhere of rank {}",
    }
    rows = [[name, *_contrasts(measured, pattern, (*RANKS, 576))] for name, pattern in lines.items()]
    full = short(measured["f, full fine-tuning"]["contrast"])
    rows.append(["full fine-tuning", "", "", "", "", full])
    header = ["contrast, nats per token", *(f"rank {rank}" for rank in RANKS), "full (576)"]
    return table(header, rows)


def prompt_tokens() -> str:
    """Claim (d)."""
    measured = results("claims")
    rows = [
        ["steer of that rank", *_contrasts(measured, "d, steer of rank {}", TOKENS)],
        ["prompt of that many tokens at each end", *_contrasts(measured, "d, {} prompt tokens", TOKENS)],
    ]
    return table(["contrast, nats per token", *(f"{tokens}" for tokens in TOKENS)], rows)


def number_of_texts() -> str:
    """Claim (e): contrast, and the gain of all unseen texts together."""
    measured = results("claims")
    lines = {
        "steer": "e, steer from {} texts",
        "steer after the middle layer": "e, steer after the middle layer from {} texts",
        "prompt, ten tokens": "e, prompt tokens from {} texts",
        "LoRA on every layer, trained": "e, LoRA everywhere from {} texts",
    }
    rows = [[f"{name}: contrast", *_contrasts(measured, pattern, SIZES)] for name, pattern in lines.items()]
    for name, pattern in lines.items():
        gains = [[one["log_likelihood_gain"] for one in of_seeds(measured, pattern.format(size))] for size in SIZES]
        missing = [_missing(measured, pattern.format(size)) for size in SIZES]
        cells = [f"{fmean(each):+.3f}" if each else why for each, why in zip(gains, missing, strict=True)]
        rows.append([f"{name}: gain", *cells])
    return table(["nats per token", *(f"{size:,} texts" for size in SIZES)], rows)


def _contrasts(measured: Mapping[str, Any], pattern: str, values: Sequence[int]) -> list[str]:
    """Means, with least and most of several seeds."""
    cells = []
    for value in values:
        contrasts = [one["contrast"] for one in of_seeds(measured, pattern.format(value))]
        if not contrasts:
            cells.append(_missing(measured, pattern.format(value)))
        elif len(contrasts) == 1:
            cells.append(short(contrasts[0], 4))
        else:
            spread = f"{short(min(contrasts))} to {short(max(contrasts))}"
            cells.append(f"{short(fmean(contrasts))} ({spread})")
    return cells


def _missing(measured: Mapping[str, Any], key: str) -> str:
    """What stands in place of a result: whether the fit was refused, or was not measured."""
    return "refused" if any(each.startswith(key) for each in measured) else ""
