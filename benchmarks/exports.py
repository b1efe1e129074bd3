"""The three exports beside the steer in flight: how far logits are apart after reloading in the foreign loader.

    python -m benchmarks.exports

Sentiment at two strengths on the default model, all positions of a few texts; shares of the logits' size. The GGUF file
is read by llama.cpp where ``llama-cpp-python`` is installed. Figures go to ``results/exports.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import typer
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.results import keep
from lmsteer.export.gguf import export_gguf
from lmsteer.export.merged import export_merged
from lmsteer.export.peft_lora import export_lora
from lmsteer.lm import LM, load
from lmsteer.packaged import gguf_of
from lmsteer.starter import starter_prompts
from lmsteer.steers.files import find_steer
from lmsteer.steers.mix import Mix

RESULTS = Path(__file__).parent / "results" / "exports.json"
STRENGTHS = (2.5, -3.0)
Logits = Callable[[list[int]], Tensor]


def main() -> None:
    """Measure."""
    lm = load()
    texts = lm.encode(starter_prompts()[:8])
    with tempfile.TemporaryDirectory() as scratch, gguf_of("smollm2") as source, torch.inference_mode():
        for strength in STRENGTHS:
            mix = Mix({"sentiment": find_steer("sentiment")}, {"sentiment": strength})
            with lm.steered(mix):
                expected = [_logits_of(lm.model)(ids) for ids in texts]
            for name, reload in _exports(lm, mix, source, Path(scratch) / f"{strength:g}").items():
                found = reload()
                gaps = [
                    (found(ids) - own).abs().max() / own.abs().max() for ids, own in zip(texts, expected, strict=True)
                ]
                keep(RESULTS, f"{name}, sentiment={strength:g}", {"largest gap": float(max(gaps))})


def _exports(lm: LM, mix: Mix, source: Path, out: Path) -> dict[str, Callable[[], Logits]]:
    """Each export, written, loaded again, and read by whom it is for."""

    def merged() -> Logits:
        return _logits_of(AutoModelForCausalLM.from_pretrained(export_merged(lm, mix, out / "merged")).eval())

    def lora() -> Logits:
        from peft import PeftModel

        return _logits_of(PeftModel.from_pretrained(load().model, export_lora(lm, mix, out / "lora")).eval())

    def gguf() -> Logits:
        file = export_gguf(lm, mix, source, out / "steered.gguf", output="f32", others="f32")
        model = AutoModelForCausalLM.from_pretrained(out, gguf_file=file.name, dtype=torch.float32)
        return _logits_of(model.eval())

    def llama_cpp() -> Logits:
        from llama_cpp import Llama

        file = export_gguf(lm, mix, source, out / "llama.gguf", output="f32", others="f32")
        model = Llama(str(file), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0)

        def read(ids: list[int]) -> Tensor:
            model.reset()
            model.eval(ids)
            return torch.tensor(model.scores[: len(ids)])

        return read

    found = {"merged, transformers": merged, "lora, PEFT": lora, "gguf in float32, transformers": gguf}
    return {**found, "gguf in float32, llama.cpp": llama_cpp} if find_spec("llama_cpp") else found


def _logits_of(model: torch.nn.Module) -> Logits:
    def read(ids: list[int]) -> Tensor:
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits[0]
        return logits

    return read


if __name__ == "__main__":
    typer.run(main)
