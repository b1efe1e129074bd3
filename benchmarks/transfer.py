"""Transfer between SmolLM2 135M and Gemma 3 270M, both ways, beside a steer fitted on the target itself.

    python -m benchmarks.transfer fit DATA       a steer on each model, from 2,000 SST-5 texts
    python -m benchmarks.transfer read DATA      SST-2 dev texts by the target's own steer, and by those transferred
    python -m benchmarks.transfer curve DATA     strength curves on neutral prompts: own, and transferred
    python -m benchmarks.transfer show           print the table

DATA is a folder of ``sst5_train``, ``sst2_dev`` and ``prompts_sentiment_neutral`` as ``.jsonl.gz``. The second model
comes under terms, which ``LMSTEER_ACCEPT_TERMS=gemma3-270m`` accepts. Results go to ``results/transfer.json``.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.results import load_results, save_result
from benchmarks.tables import TABLES
from lmsteer import load
from lmsteer.data.labelled import LabelledSource, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.scorers import Vader
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.reading.held_out import held_out_metrics
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.transferring.maps import WORD_MAPS
from lmsteer.transferring.transfer import transfer
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results" / "transfer.json"
WORK = Path(__file__).parent / "results" / "work" / "transfer"
MODELS = ("smollm2", "gemma3-270m")
WAYS = (MODELS, MODELS[::-1])
TEXTS, READ, PROMPTS, SAMPLES = 2000, 300, 80, 2
STRENGTHS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
OWN = "own"
MAPS = tuple((how, 0.5) for how in WORD_MAPS)

app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.command("fit")
def fit_both(data: Data) -> None:
    """Fit a steer on each model."""
    texts = sample_texts(read_labelled(data / "sst5_train.jsonl.gz"), TEXTS, seed=0)
    for model in MODELS:
        started = time.perf_counter()
        source = LabelledSource("sst5_train")
        fit(
            load(model),
            texts,
            name="sentiment",
            source=source,
            out=WORK / model,
            config=FitConfig(resume=True),
            progress=bars(),
        )
        save_result(RESULTS, f"fit {model}", {"seconds": round(time.perf_counter() - started, 1)})


@app.command("read")
def read_all(data: Data) -> None:
    """Carry the steers over by each map, and read labelled texts under them; what was measured before is kept."""
    dev = read_labelled(data / "sst2_dev.jsonl.gz")[:READ]
    for source_name, target_name in WAYS:
        source, target = load(source_name), load(target_name)
        for lm in (source, target):
            fisher_factors(lm)  # a model's is measured once, whatever is done with it
        steer = load_steer(WORK / source_name)
        rows = LabelledRows.join(list(gather_rows(target, *encode_readable(target, dev))))
        way = f"{source_name} -> {target_name}"
        if f"{way}: {OWN}" not in load_results(RESULTS):
            save_result(RESULTS, f"{way}: {OWN}", _read(target.head, rows, load_steer(WORK / target_name)))
        for how, power in MAPS:
            key = f"{way}: {how}, frequency^{power:g}"
            if key in load_results(RESULTS):
                continue
            started = time.perf_counter()
            transferred = transfer(source, steer, target, word_map=how, power=power, progress=bars())  # type: ignore[arg-type]
            seconds = time.perf_counter() - started
            if (how, power) == MAPS[0]:
                save_steer(transferred, WORK / f"{source_name}-{target_name}")
            about = {name: transferred.card.fit[name] for name in ("pairs", "shared_words", "shared_frequency")}
            figures = {"seconds": round(seconds, 1), **about, **_read(target.head, rows, transferred)}
            save_result(RESULTS, key, figures)


@app.command("curve")
def curve_all(data: Data) -> None:
    """Measure the strength curves on neutral prompts."""
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[:PROMPTS]
    for source_name, target_name in WAYS:
        lm = load(target_name)
        for name, folder in ((OWN, target_name), ("transferred", f"{source_name}-{target_name}")):
            steers = {"s": load_steer(WORK / folder)}
            settings = [{"s": strength} for strength in STRENGTHS]
            config = GenerationConfig(SAMPLES, max_new_tokens=20, score=True, batch_size=128)
            rows = list(generate(lm, prompts, steers, settings, config, progress=bars()))
            points = [asdict(point) for point in strength_curve(rows, "s", Vader())]
            save_result(RESULTS, f"curve {source_name} -> {target_name}: {name}", points)


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["transfer"]())


def _read(head: Any, rows: LabelledRows, steer: Any) -> dict[str, Any]:
    return held_out_metrics(head, rows, steer).to_json()


if __name__ == "__main__":
    app()
