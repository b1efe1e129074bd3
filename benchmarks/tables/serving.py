"""Tables of the server, of vLLM and of the exports."""

from __future__ import annotations

from benchmarks.tables.markdown import results, short, table

STRENGTHS = ("2.5", "-3")
EXPORTS = {
    "unsteered": "no steer, for comparison",
    "merged, transformers": "merged, read by transformers",
    "lora, PEFT": "LoRA, read by PEFT",
    "gguf in float32, transformers": "GGUF in float32, read by transformers",
    "gguf in float32, llama.cpp": "GGUF in float32, read by llama.cpp",
    "gguf adapter on a base in float32, llama.cpp": "GGUF adapter beside a base in float32, read by llama.cpp",
    "gguf as written, llama.cpp": "GGUF with the default options, read by llama.cpp",
}


def load() -> str:
    """The server under load."""
    rows = []
    for name, one in results("load").items():
        if "finished" not in one:
            continue
        counts = [f"{one[what]:,}" for what in ("finished", "errors", "wrong", "ties")]
        rates = [f"{one['tokens/s']:.0f}", f"{one['median s']:.1f} s", f"{one['95 % s']:.1f} s"]
        rows.append([name, *counts, *rates, f"{one['MiB'] * 2**20 / 1e9:.1f} GB"])
    header = ["", "answers", "errors", "wrong", "ties", "tokens per second", "median latency", "95th percentile"]
    return table([*header, "memory"], rows)


def vllm() -> str:
    """vLLM with steers beside vLLM without."""
    measured = results("vllm_speed")
    rows = [[name, f"{one['tokens/s']:.0f}", f"{one['of unsteered']:.2f} x"] for name, one in measured.items()]
    return table(["", "tokens per second", "of unsteered"], rows)


def exports() -> str:
    """How far the logits of each export are from those of the steer."""
    measured = results("exports")
    rows = []
    for key, label in EXPORTS.items():
        gaps = [measured[f"{key}, sentiment={strength}"]["largest gap"] for strength in STRENGTHS]
        rows.append([label, *map(_gap, gaps)])
    base = measured["the base's own file, llama.cpp, unsteered"]["largest gap"]
    rows.append(["the base's own file, unsteered, read by llama.cpp", _gap(base), _gap(base)])
    return table(["", *(f"`sentiment={strength}`" for strength in STRENGTHS)], rows)


def pause() -> tuple[float, float]:
    """Seconds that a long prompt takes, and the longest pause of a stream beside it."""
    one = next(each for each in results("load").values() if "longest pause" in each)
    return one["long prompt"], one["longest pause"]


def _gap(value: float) -> str:
    return short(value, 2) if value > 1e-3 else f"{value:.0e}".replace("e-0", "e-")
