"""The table of large models, rehearsed stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tables.markdown import results, table


@dataclass(frozen=True)
class Shape:
    """The widths of a model.

    Attributes:
        kind: its ``model_type``.
        width: d.
        vocabulary: V.
        layers: the number of its layers.
        settings: what its config says beside.
        dtype: of its weights.
    """

    kind: str
    width: int
    vocabulary: int
    layers: int
    more: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its config, without the number of layers. The head is tied, which halves the memory."""
        own = {"hidden_size": self.width, "vocab_size": self.vocabulary, "tie_word_embeddings": True}
        return {**own, **self.more}


def _widths(inner: int, heads: int, keys: int, **more: Any) -> dict[str, Any]:
    return {"intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": keys, **more}


SHAPES = {
    "Llama 3.1 8B": Shape("llama", 4096, 128256, 32, _widths(14336, 32, 8)),
    "Qwen 2.5 7B": Shape("qwen2", 3584, 152064, 28, _widths(18944, 28, 4)),
    "Gemma 2 9B": Shape("gemma2", 3584, 256000, 42, _widths(14336, 16, 8, head_dim=256)),
    "Llama 3.1 70B": Shape("llama", 8192, 128256, 80, _widths(28672, 64, 8)),
}
# What a stage takes, and how often.
STAGES = {
    "pass": "one layer, 64 tokens",
    "residuals": "64 tokens: 4 d V each",
    "sums": "64 tokens: 4 d² each",
    "eigenbases": "of C and F, once a model: some 18 d³",
    "solve": "once a fit: six products of d × d × d, and nine d² for each of some ten thousand kept rows",
    "scale": "once a fit: 2 d V for each of 2,048 tokens",
    "sweep": "64 tokens, 13 strengths: 2 d V each, and 13 V",
    "steered step": "one layer, a token of 8 rows",
    "export": "a LoRA of rank 64",
    "transfer": "of the words: 4 d² for each of 100,000",
}


def key_of(shape: str, stage: str) -> str:
    """The key of a stage among the results."""
    return f"{shape}, {stage}"


def shapes() -> str:
    """Seconds and peak memory of each stage, for each shape."""
    found = results("shapes")
    named = [name for name in SHAPES if any(key_of(name, stage) in found for stage in STAGES)]
    rows = []
    for stage, what in STAGES.items():
        cells = []
        for name in named:
            one = found.get(key_of(name, stage))
            cells.append("" if one is None else f"{one['seconds']:,.1f} s, {one['peak_bytes'] / 1e9:.1f} GB")
        rows.append([stage, what, *cells])
    return table(["", "", *named], rows)
