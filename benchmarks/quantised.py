"""A fit on a quantised model beside one on the whole weights, both read on unseen texts under the whole weights.

    PYTHONPATH=.venv-quantised python -m benchmarks.quantised measure DATA    every form, or some by name
    python -m benchmarks.quantised show                                       print the table

DATA is the folder of the data files; ``make test-quantised`` makes the folder ``.venv-quantised``. "Cosine" is that of
a steer's map with the one that was fitted on the whole weights, in the Fisher metric of these. Contrast and gain are
those of ``benchmarks.claims``. What is done already is kept. Results go to ``results/quantised.json``.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import BitsAndBytesConfig, TorchAoConfig

from benchmarks.claims import HELD_OUT, Bench
from benchmarks.data import labelled_texts
from benchmarks.results import check_known, load_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.quantised import FORMS, TEXTS, WHOLE
from lmsteer.baselines.steer import fit_steer, steer_baseline
from lmsteer.data.labelled import read_labelled, sample_texts
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "quantised.json", HERE / "results" / "work" / "quantised"
app = typer.Typer(add_completion=False)


@app.callback()
def _commands() -> None:
    """Several commands."""


@app.command("measure")
def measure(
    data: Annotated[Path, typer.Argument(help="Folder of the data files.")],
    names: Annotated[list[str] | None, typer.Argument(help="Some forms.")] = None,
) -> None:
    """Fit on every form of the weights, and read unseen texts under the whole ones."""
    check_known(names, FORMS)
    texts = sample_texts(read_labelled(data / "sst5_train.jsonl.gz"), TEXTS, 0)
    whole = load()
    bench = Bench(whole, (), sample_texts(labelled_texts(data, "sst5_dev"), HELD_OUT, 0))
    for form in dict.fromkeys([WHOLE, *(names or FORMS)]):  # cosines are with the steer of the whole weights
        if form not in load_results(RESULTS):
            lm, started = whole if form == WHOLE else _quantised(form), time.perf_counter()
            steer = fit_steer(lm, texts, bars()).steer
            seconds = time.perf_counter() - started
            save_steer(steer, WORK / form)
            cosine = _cosine(whole, steer, load_steer(WORK / WHOLE))
            save_result(RESULTS, form, {"seconds": seconds, "cosine": cosine, **bench.gain(steer_baseline(steer))})


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["quantised"]())


def _quantised(form: str) -> LM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that quantise
        return load(device_map="cpu", quantization_config=config_of(form))


def config_of(form: str) -> Any:
    """How transformers quantises."""
    if form == "torchao-8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    if form == "bitsandbytes-8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def _cosine(lm: LM, one: Steer, other: Steer) -> float:
    fisher, maps = fisher_factors(lm), [_map(one), _map(other)]
    lengths = [fisher.inner(each, each) ** 0.5 for each in maps]
    return fisher.inner(*maps) / (lengths[0] * lengths[1])


def _map(steer: Steer) -> tuple[torch.Tensor, torch.Tensor]:
    return steer.factors["A"].double(), steer.factors["B"].double()


if __name__ == "__main__":
    torch.manual_seed(0)
    app()
