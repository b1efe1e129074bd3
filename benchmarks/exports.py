"""The exports beside the steer in flight: how far logits are apart after reloading in the foreign loader.

    python -m benchmarks.exports

Sentiment at two strengths on the default model, all positions of a few texts; shares of the logits' size, beside the
share that the steer itself moves them by. Where ``llama_cpp`` can be imported (after ``make test-llamacpp``, with the
variables that the Makefile sets for its tests) it reads the GGUF file in float32, and as it is written by default,
beside the base's own file, and the GGUF adapter of strength 1 at each strength as its scale. Results go to
``results/exports.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.results import save_result
from lmsteer.data.starter import starter_prompts
from lmsteer.export.gguf import export_gguf
from lmsteer.export.gguf_lora import export_gguf_lora
from lmsteer.export.merged import export_merged
from lmsteer.export.peft import export_lora
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.model.sources.pypi import gguf_of
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix

RESULTS = Path(__file__).parent / "results" / "exports.json"
STRENGTHS = (2.5, -3.0)
Logits = Callable[[list[int]], Tensor]


def main() -> None:
    """Measure."""
    lm = load()
    texts = lm.encode(starter_prompts()[:8])
    with tempfile.TemporaryDirectory() as scratch, gguf_of("smollm2") as source, torch.inference_mode():
        plain = _all(_logits_of(lm.model), texts)
        for strength in STRENGTHS:
            mix = Mix({"sentiment": find_steer("sentiment")}, {"sentiment": strength})
            with lm.steered(mix):
                expected = _all(_logits_of(lm.model), texts)
            save_result(RESULTS, f"unsteered, sentiment={strength:g}", _apart(plain, expected))
            for name, reload in _exports(lm, mix, source, Path(scratch) / f"{strength:g}").items():
                save_result(RESULTS, f"{name}, sentiment={strength:g}", _apart(_all(reload(), texts), expected))
        if find_spec("llama_cpp"):
            save_result(
                RESULTS, "the base's own file, llama.cpp, unsteered", _apart(_all(_llama_cpp(source), texts), plain)
            )


def _exports(lm: LM, mix: Mix, source: Path, out: Path) -> dict[str, Callable[[], Logits]]:
    """Each export, written, loaded again, and read by whom it is for."""

    def merged() -> Logits:
        return _logits_of(AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, out / "merged")).eval())

    def lora() -> Logits:
        from peft import PeftModel

        return _logits_of(PeftModel.from_pretrained(load().model, export_lora(lm, mix, out / "lora")).eval())

    def gguf() -> Logits:
        file = export_gguf(lm, mix, source, out / "whole.gguf", output="f32", others="f32")
        model = AutoModelForCausalLM.from_pretrained(out, gguf_file=file.name, dtype=torch.float32)
        return _logits_of(model.eval())

    found = {"merged, transformers": merged, "lora, PEFT": lora, "gguf in float32, transformers": gguf}
    if find_spec("llama_cpp"):
        found["gguf in float32, llama.cpp"] = lambda: _llama_cpp(out / "whole.gguf")
        found["gguf as written, llama.cpp"] = lambda: _llama_cpp(export_gguf(lm, mix, source, out / "steered.gguf"))
        found["gguf adapter on a base in float32, llama.cpp"] = lambda: _adapter(lm, mix, source, out)
    return found


def _adapter(lm: LM, mix: Mix, source: Path, out: Path) -> Logits:
    """The adapter of strength 1, at the mix's strength as its scale."""
    one, none = (Mix(mix.steers, dict.fromkeys(mix.steers, strength)) for strength in (1.0, 0.0))
    base = export_gguf(lm, none, source, out / "base.gguf", output="f32", others="f32")
    adapter = export_gguf_lora(lm, one, base, out / "adapter.gguf")
    return _llama_cpp(base, lora_path=str(adapter), lora_scale=float(mix.strengths[0, 0]))


def _logits_of(model: torch.nn.Module) -> Logits:
    def read(ids: list[int]) -> Tensor:
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits[0]
        return logits

    return read


def _llama_cpp(file: Path, **adapter: Any) -> Logits:
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0, **adapter)

    def read(ids: list[int]) -> Tensor:
        model.reset()
        model.eval(ids)
        return torch.tensor(model.scores[: len(ids)])

    return read


def _all(read: Logits, texts: list[list[int]]) -> list[Tensor]:
    return [read(ids) for ids in texts]


def _apart(found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    gaps = [(a - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)]
    return {"largest gap": float(max(gaps))}


if __name__ == "__main__":
    typer.run(main)
