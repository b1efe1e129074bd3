"""Large models, rehearsed: each stage of the work on one layer and the whole head of a model of real width.

    python -m benchmarks.shapes measure            every stage of every shape; what is done already is kept
    python -m benchmarks.shapes measure SHAPE ...  of some shapes; with --stage, some stages
    python -m benchmarks.shapes show               print the table

Weights are random, in the dtype of the real model, d and V are the real ones, and so is every other width. Each stage
runs in a process of its own, whose peak of resident memory is that of the stage: the model is not loaded where a stage
does not need it. Results go to ``results/shapes.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import psutil
import torch
import typer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.measure import peak_bytes, seconds
from benchmarks.results import check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.shapes import SHAPES, STAGES, Shape, key_of
from lmsteer.export.peft import export_lora
from lmsteer.fitting.closed_form import solve
from lmsteer.fitting.scale import _SOME_ROWS, largest_scale
from lmsteer.fitting.statistics import Counts, Statistics, StatisticsProvenance
from lmsteer.model.checkpoint import read_tokenizer
from lmsteer.model.fisher import Eigenbasis, FisherFactors
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.sources.resolve import DEFAULT_MODEL, resolve
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.splits import HELD_OUT_ROWS, sample_limit
from lmsteer.reading.sweep import Direction, sweep
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.transferring.maps import map_writer
from lmsteer.transferring.shared_vocabulary import SharedVocabulary, WordEmbeddings
from lmsteer.util.provenance import provenance_of

RESULTS = Path(__file__).parent / "results" / "shapes.json"
# Tokens of a pass and of a sweep, rank of a steer, strengths of a reading.
TOKENS, RANK, STRENGTHS = 64, 64, 13
# Directions that the gradients of a style have, and how fast they fall off: as in fits of the default model.
DIRECTIONS, FALL = 256, 0.8
TEXTS, WORDS = 2048, 100_000
# The solution's own products with the head, which have a stage of their own, take no time with so few words.
_FEW_WORDS = 1000
app = typer.Typer(add_completion=False)
Stage = Callable[[Shape], Callable[[], object]]


@app.command("measure")
def measure(
    names: Annotated[list[str] | None, typer.Argument(help="Of some shapes.")] = None,
    stages: Annotated[list[str] | None, typer.Option("--stage", help="Some stages; all by default.")] = None,
) -> None:
    """Every stage, or some, of every shape, or of some."""
    check_known(names, SHAPES)
    check_known(stages, STAGES)
    for name in names or SHAPES:
        for stage in stages or STAGES:
            if (key := key_of(name, stage)) not in load_results(RESULTS):
                command = [sys.executable, "-m", "benchmarks.shapes", "stage", name, stage]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                save_result(RESULTS, key, json.loads(done.stdout.splitlines()[-1]))


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["shapes"]())


@app.command("stage")
def one(name: str, stage: str) -> None:
    """One stage of one shape, in this process; prints its seconds and bytes as JSON."""
    torch.manual_seed(0)
    work = _STAGES[stage](SHAPES[name])
    found = dict[str, float]()

    def timed() -> None:
        found["seconds"] = seconds(work)

    before = psutil.Process().memory_info().rss
    more = peak_bytes(timed)
    print(json.dumps({**found, "held_bytes": before, "peak_bytes": before + more, "threads": torch.get_num_threads()}))


def random_model(shape: Shape, layers: int, device: torch.device) -> PreTrainedModel:
    """Some layers of a model and its head, with random weights; on the meta device with none."""
    config = AutoConfig.for_model(shape.kind, **shape.settings, num_hidden_layers=layers)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    if device.type == "meta":
        return model
    model.to_empty(device=device)
    model.tie_weights()
    for parameter in model.parameters():  # uniform numbers are drawn several times as fast as normal ones
        parameter.data.uniform_(-0.02, 0.02)
    for module in model.modules():  # buffers that no checkpoint holds: frequencies, and the scale of embeddings
        if hasattr(module, "inv_freq"):
            module.__init__(config)
            module.to(device)
        if hasattr(module, "embed_scale"):
            module.embed_scale.fill_(module.scalar_embed_scale)
    return model.eval()


def _model(shape: Shape) -> LM:
    """One layer of the model and its head, on the CPU."""
    model = random_model(shape, 1, torch.device("cpu"))
    return LM(model, read_tokenizer(resolve(DEFAULT_MODEL).location, "the tokenizer"), "random")


def _head(shape: Shape) -> Head:
    """The head alone, in float32: a CPU without bfloat16 takes a hundred times as long for its products in bfloat16."""
    module = torch.nn.Linear(1, 1, bias=False)
    weight = torch.empty(shape.vocabulary, shape.width).uniform_(-0.02, 0.02)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return Head(module)


def _of_pass(shape: Shape) -> Callable[[], object]:
    lm = _model(shape)
    ids = torch.randint(1, 1000, (1, TOKENS))
    return lambda: lm.hidden_states(ids, torch.ones_like(ids))


def _of_residuals(shape: Shape) -> Callable[[], object]:
    head, (h, targets) = _head(shape), _rows(shape)
    return lambda: head.residuals(h, targets)


def _of_sums(shape: Shape) -> Callable[[], object]:
    statistics, rows = _empty(shape), _labelled(shape, TOKENS)
    return lambda: statistics.add(rows)


def _of_eigenbases(shape: Shape) -> Callable[[], object]:
    factors = _fisher(shape)
    return factors.with_eigenbases


def _of_solve(shape: Shape) -> Callable[[], object]:
    statistics, factors = _statistics(shape), _fisher(shape)
    # The eigenbases are kept beside C and F, so that no fit but the first computes them; any orthogonal ones will do.
    d = shape.width
    basis = torch.linalg.qr(torch.randn(d, 64, dtype=torch.float64))[0]
    reflection = torch.eye(d, dtype=torch.float64) - 2 * basis @ basis.T
    own = Eigenbasis(torch.linspace(1e-3, 4, d, dtype=torch.float64), reflection)
    known, head = replace(factors, bases=(own, own)), _head(replace(shape, vocabulary=_FEW_WORDS))
    statistics.held_out.target.remainder_(_FEW_WORDS)
    return lambda: solve(statistics, known, head)


def _of_scale(shape: Shape) -> Callable[[], object]:
    head, rows = _head(shape), _labelled(shape, _SOME_ROWS)
    a, b = (factor.double() for factor in _factors(shape))
    return lambda: largest_scale(head, rows, a, b)


def _of_sweep(shape: Shape) -> Callable[[], object]:
    head, (h, targets) = _head(shape), _rows(shape)
    direction = Direction.of_factors(head, *_factors(shape))
    return lambda: sweep(head, h, targets, [direction], [float(s) for s in range(STRENGTHS)])


def _of_steer(shape: Shape) -> Callable[[], object]:
    lm = _model(shape)
    mix = Mix({"s": _steer(lm, shape)}, {"s": 3.0})
    ids = torch.randint(1, 1000, (8, 1))

    def steered() -> float:
        with ExitStack() as stack, torch.inference_mode():
            stack.enter_context(lm.steered(mix))
            return float(lm.model(input_ids=ids, use_cache=False).logits.sum())

    steered()  # factors are made once
    return steered


def _of_export(shape: Shape) -> Callable[[], object]:
    lm = _model(shape)
    mix = Mix({"s": _steer(lm, shape)}, {"s": 3.0})
    folder = TemporaryDirectory()
    return lambda: export_lora(lm, mix, Path(folder.name) / "lora")


def _of_transfer(shape: Shape) -> Callable[[], object]:
    head, count = _head(shape), min(WORDS, shape.vocabulary)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    words = WordEmbeddings.centred(head.weight, torch.randperm(shape.vocabulary)[:count], weights)
    shared, factors = SharedVocabulary(words, words, weights, 0.9), _fisher(shape)
    _, b = _factors(shape)
    return lambda: map_writer("gradient", shared, factors, factors, b.double())


_STAGES: dict[str, Stage] = {
    "pass": _of_pass,
    "residuals": _of_residuals,
    "sums": _of_sums,
    "eigenbases": _of_eigenbases,
    "solve": _of_solve,
    "scale": _of_scale,
    "sweep": _of_sweep,
    "steered step": _of_steer,
    "export": _of_export,
    "transfer": _of_transfer,
}


def _rows(shape: Shape, count: int = TOKENS) -> tuple[Tensor, Tensor]:
    return torch.randn(count, shape.width), torch.randint(0, shape.vocabulary, (count,))


def _factors(shape: Shape) -> tuple[Tensor, Tensor]:
    a, b = (torch.randn(shape.width, RANK) / shape.width for _ in range(2))
    return a, b


def _steer(lm: LM, shape: Shape) -> Steer:
    a, b = _factors(shape)
    return Steer("multiply", {"A": a, "B": b}, shape.width, shape.vocabulary, Card(name="s", **provenance_of(lm)))


def _labelled(shape: Shape, count: int) -> LabelledRows:
    """Rows of texts of 16 tokens, whose last one is an end, with labels that the hidden states tell."""
    h, target = _rows(shape, count)
    text = torch.arange(count) // 16
    label = torch.where(text % 2 == 0, 1.0, -1.0)
    h[:, 0] += label
    generator = torch.Generator().manual_seed(1)
    digests = torch.randint(-(2**62), 2**62, (int(text[-1]) + 1, 2), generator=generator)[text]
    r = torch.randn(count, shape.width) * 0.1
    r[:, 1] += 0.3 * label * h[:, 0].sign()
    is_end = torch.arange(count) % 16 == 15
    first = torch.where(torch.arange(count) % 16 == 0, 1, -1)
    return LabelledRows(h, r, torch.full((count,), -5.0), target, is_end, first, label, digests)


def _empty(shape: Shape) -> Statistics:
    sums = {name: torch.zeros(shape.width, shape.width, dtype=torch.float64) for name in ("G", "D", "C_end")}
    sums |= {name: torch.zeros(shape.width, dtype=torch.float64) for name in ("g_end", "h_end", "r_end")}
    return Statistics(
        StatisticsProvenance(base="random", base_fingerprint="0", tokenizer_fingerprint="0"),
        sums,
        LabelledRows.none(shape.width),
    )


def _statistics(shape: Shape) -> Statistics:
    """Statistics of a style of some directions, with as many rows as a fit keeps."""
    statistics = _empty(shape)
    u, v = (torch.randn(shape.width, DIRECTIONS, dtype=torch.float64) for _ in range(2))
    falling = torch.arange(1, DIRECTIONS + 1, dtype=torch.float64) ** -FALL
    statistics.sums["G"] += TEXTS * (u * falling) @ v.T
    statistics.sums["D"] += TEXTS * (v * falling) @ u.T
    statistics.sums["C_end"] += u @ u.T + torch.eye(shape.width, dtype=torch.float64)
    for name in ("g_end", "h_end", "r_end"):
        statistics.sums[name] += torch.randn(shape.width, dtype=torch.float64)
    statistics.counts = Counts(TEXTS, 30 * TEXTS, TEXTS, 0.0, 30.0 * TEXTS, 0.0)
    statistics.held_out = _labelled(shape, HELD_OUT_ROWS)
    statistics.sample = (_labelled(shape, sample_limit(shape.width)),)
    return statistics


def _fisher(shape: Shape) -> FisherFactors:
    d = shape.width
    rows = torch.randn(d, DIRECTIONS, dtype=torch.float64)
    c = rows @ rows.T / DIRECTIONS + torch.eye(d, dtype=torch.float64)
    return FisherFactors(c, c.clone(), torch.randn(d, dtype=torch.float64))


if __name__ == "__main__":
    app()
