"""The table of the ways to change a model: how much each may change, and how far each goes."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from benchmarks.tables.claims import of_seeds
from benchmarks.tables.markdown import percent, results, short, table

# What each is called: the keys of its results in claims (contrast from 512 texts) and in thread (one prompt).
WAYS = {
    "steer of the head, rank 16": ("c, steer of rank 16", "steer=+1"),
    "steer of the stream after the middle layer, rank 159": ("e, steer after the middle layer from 512 texts", ""),
    "steer of the stream after layer 25": ("", "steer, layer-25=+1"),
    "steer of three layers and the head": ("", "steer, three-layers=+1"),
    "steer of seven layers and the head": ("", "steer, seven-layers=+1"),
    "LoRA of six linear layers, in closed form": ("", "steer, six-loras=+1"),
    "LoRA of the head, rank 16, trained": ("c, LoRA on the head of rank 16", ""),
    "LoRA of every layer, rank 4, in closed form": ("c, one-pass LoRA everywhere of rank 4", ""),
    "LoRA of every layer, trained (rank 4; for the prompt, 8)": ("c, LoRA everywhere of rank 4", "lora-style=+1"),
    "ten prompt tokens, trained": ("e, prompt tokens from 512 texts", "tokens-10=+1"),
    "a gist of one token": ("", "gist"),
    "full fine-tuning": ("f, full fine-tuning", ""),
}


def family() -> str:
    """Numbers, contrast on unseen texts from 512 labelled ones, and the share of a prompt that is closed."""
    claims, thread = results("claims"), results("thread")
    whole, rows = thread["unsteered"]["divergence"], []
    for label, (claim, way) in WAYS.items():
        learnt = of_seeds(claims, claim) if claim else []
        closed = percent(1 - thread[way]["divergence"] / whole) if way in thread else ""
        if learnt or closed:
            rows.append(
                [label, _numbers(learnt), short(fmean(one["contrast"] for one in learnt)) if learnt else "", closed]
            )
    return table(["", "numbers", "contrast, nats a token", "closed of a prompt"], rows)


def _numbers(learnt: list[Mapping[str, Any]]) -> str:
    return f"{learnt[0]['parameters']:,.0f}" if learnt else ""
