"""The speed of a fit, and of decoding with and without steers, on a graphics card, for a model of 8 billion weights.

    benchmarks/gpu.sh                     the tests that need a GPU, then this
    python -m benchmarks.gpu measure      measure, and write results/gpu.json
    python -m benchmarks.gpu show         print the table

Weights are random and the tokenizer knows bytes alone, so no model is fetched. Of a card with
less memory than the model takes, as many layers are used as fit, and the table says how many. ``--shape tiny`` runs the
same on anything, to see that it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import torch
import transformers
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.measure import seconds
from benchmarks.results import check_known, replace_results
from benchmarks.shapes import random_model
from benchmarks.tables import TABLES
from benchmarks.tables.shapes import SHAPES, Shape
from lmsteer.data.labelled import LabelledText
from lmsteer.data.starter import starter_prompts, starter_texts
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.closed_form import solve
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.row import Row, row_noise
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.steer.steer import Steer
from lmsteer.util.devices import accelerator

RESULTS = Path(__file__).parent / "results" / "gpu.json"
TINY = "tiny"
# The share of the free memory that the model's weights may take.
_SHARE = 0.6
ROWS, STEPS = (1, 8, 64), 32
app = typer.Typer(add_completion=False)


@app.command("measure")
def measure(
    shape: Annotated[str, typer.Option(help=f"Of {', '.join(SHAPES)}, or {TINY}.")] = "Llama 3.1 8B",
    results: Annotated[Path, typer.Option(help="File of the results.")] = RESULTS,
) -> None:
    """A fit and decoding, on the accelerator of this machine."""
    check_known([shape], [*SHAPES, TINY])
    device = accelerator()
    if device is None and shape != TINY:
        raise typer.BadParameter("this machine has no accelerator; --shape tiny runs on any.")
    lm, layers = _model(SHAPES.get(shape, TINY_SHAPE), device or torch.device("cpu"))
    with TemporaryDirectory() as cache, patch.dict(os.environ, LMSTEER_CACHE=cache):
        fitted = _fit(lm)
    found = {
        "card": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else str(device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "shape": shape,
        "layers": layers,
        "fit": fitted,
        "decoding": {str(rows): _decoding(lm, rows) for rows in ROWS},
    }
    replace_results(results, found)
    print(found)


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["gpu"]())


TINY_SHAPE = Shape(
    "llama", 64, 300, 2, {"intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}, "float32"
)


def _model(shape: Shape, device: torch.device) -> tuple[LM, int]:
    """The model on a device, and the number of its layers: as many as fit."""
    layers = shape.layers
    if device.type == "cuda":
        one, two = (_bytes(shape, count) for count in (1, 2))
        free = torch.cuda.mem_get_info(device)[0] * _SHARE
        layers = max(1, min(layers, int((free - one) / (two - one)) + 1))
    return LM(random_model(shape, layers, device), byte_tokenizer(), "random"), layers


def _bytes(shape: Shape, layers: int) -> int:
    return sum(weight.nbytes for weight in random_model(shape, layers, torch.device("meta")).parameters())


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes."""
    vocabulary = {symbol: k for k, symbol in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def _texts(count: int) -> list[LabelledText]:
    """The starter texts, cut to 40 letters, in as many versions as it takes."""
    texts = starter_texts()
    own = [texts[k % len(texts)] for k in range(count)]
    return [replace(text, text=f"{k // len(texts)} {text.text[:38]}") for k, text in enumerate(own)]


def _fit(lm: LM, count: int = 2000) -> dict[str, Any]:
    """Seconds of each part of a fit, and the share of the model's own forward passes in the pass over the texts."""
    measured = {"Fisher factors": _timed(lambda: fisher_factors(lm))}
    texts, ids = encode_readable(lm, _texts(count), None)
    states = HiddenStates(lm, ids)
    batches = [[ids[i] for i in batch] for batch in states.batches]
    lm.predicting(batches[0])
    measured["forward passes"] = _timed(lambda: [lm.predicting(batch) for batch in batches])
    statistics = Statistics.empty(lm)
    measured["pass over the texts"] = _timed(lambda: gather_statistics(states, texts, statistics))
    factors = fisher_factors(lm)
    measured["solution"] = _timed(lambda: solve(statistics, factors, lm.head))
    tokens = sum(len(text) - 1 for text in ids)
    return {"texts": len(texts), "tokens": tokens, "seconds": measured, "peak_bytes": _peak(lm.device)}


def _decoding(lm: LM, rows: int) -> dict[str, float]:
    """Median seconds of a step of some rows, unsteered and with a strength for each row."""
    steer = _steer(lm)
    return {name: _step(lm, rows, steers) for name, steers in (("unsteered", {}), ("steered", {"s": steer}))}


def _step(lm: LM, count: int, steers: dict[str, Steer]) -> float:
    ids, decoder = lm.encode(starter_prompts()[:1])[0], Decoder(lm)
    rows = [
        Row(Start(ids), row_noise(0, 0, k, STEPS), steers, dict.fromkeys(steers, 4.0 * (-1) ** k / (1 + k)))
        for k in range(count)
    ]
    decoder.admit(rows)
    decoder.step()
    return median(_timed(decoder.step) for _ in range(STEPS - 1))


def _steer(lm: LM, rank: int = 64) -> Steer:
    vocabulary, d = lm.head.weight.shape
    a, b = (torch.randn(d, rank, generator=torch.Generator().manual_seed(k)) / d for k in (0, 1))
    return Steer("multiply", {"A": a, "B": b}, d, vocabulary, lm.card("s"))


def _timed(work: Callable[[], object]) -> float:
    """Seconds of some work, with what it has left the device to do."""

    def done() -> None:
        work()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    return seconds(done)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


if __name__ == "__main__":
    app()
