"""The main job on real data: fit, read and generate, beside the published recipe.

    python -m benchmarks.main_job fit DATA          2,000 SST-5 texts; --method deep or lora: inside the model;
                                                    --method gradient: the published recipe
    python -m benchmarks.main_job read DATA         SST-2 dev under each steer, VADER's own accuracy
    python -m benchmarks.main_job curve DATA        the strength curves
    python -m benchmarks.main_job show              print the table, draw the picture

DATA is a folder of ``sst5_train``, ``sst2_dev`` and ``prompts_sentiment_neutral`` as ``.jsonl.gz``. Results go to
``results/main_job.json``, the picture to ``docs/figures/strength-curve.svg``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from benchmarks.results import PICTURES, load_results, replace_results, save_result
from benchmarks.tables import TABLES
from benchmarks.tables.wishes import LOOPS
from lmsteer import load
from lmsteer.data.labelled import LabelledSource, read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.metrics import rep_3
from lmsteer.evaluation.scorers.base import UNDECIDED
from lmsteer.evaluation.scorers.vader import Vader
from lmsteer.evaluation.strength_curve import strength_curve
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import Continuation, generate
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.held_out import measure_held_out, measure_texts
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.steer.files import load_steer
from lmsteer.util.figures import render_figure
from lmsteer.util.files import write_file
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results"
WORK, FIGURES = RESULTS / "work", RESULTS / "main_job.json"
PICTURE = PICTURES / "strength-curve.svg"
TEXTS, PROMPTS, SAMPLES = 2000, 200, 3
# The picture ends at this multiple of the unsteered perplexity; what is worse is no language.
WORST = 12
# Of ours at the head and inside the model, and of the published recipe, which is at its best without its domain steer.
STRENGTHS = {
    "closed-form": (-9.0, -7.0, -6.0, -5.0, -3.0, 0.0, 2.0, 4.0, 5.0, 6.0, 7.0),
    "deep": (-8.0, -7.0, -6.0, -5.0, -3.0, 0.0, 3.0, 5.0, 7.0, 9.0),
    "lora": (-6.0, -4.5, -3.0, 0.0, 3.0, 5.0, 7.0),
    "gradient": (-5.0, -3.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 3.0, 5.0),
}

CONFIGS = {
    "closed-form": FitConfig(resume=True),
    "deep": FitConfig(sites=["deep"], resume=True),
    "lora": FitConfig(sites=["lora"], resume=True),
    "gradient": FitConfig(method="gradient", resume=True, gradient=GradientConfig(l2=1e-6)),
}

app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.callback()
def _state() -> None:
    RESULTS.mkdir(exist_ok=True)


@app.command("fit")
def fit_both(data: Data, method: str = "closed-form") -> None:
    """Fit by one method: closed-form, deep, lora, or gradient (the published recipe, 1,000 steps)."""
    texts = sample_texts(read_labelled(data / "sst5_train.jsonl.gz"), TEXTS, seed=0)
    lm, started = load(), time.perf_counter()
    done = fit(
        lm,
        texts,
        name=method,
        source=LabelledSource("sst5_train"),
        out=WORK / method,
        config=CONFIGS[method],
        progress=bars(),
    )
    seconds = time.perf_counter() - started
    _drop(f"curve {method}", f"samples {method}", f"read {method}", f"read {method}, domain on")
    save_result(
        FIGURES, f"fit {method}", {"seconds": round(seconds, 1), "ranks": done.steer.ranks, **asdict(done.steer.card)}
    )


@app.command("read")
def read_both(data: Data) -> None:
    """Read SST-2 dev under each fitted steer."""
    lm, dev = load(), read_labelled(data / "sst2_dev.jsonl.gz")
    ids = encode_labelled(lm, dev)
    rows = LabelledRows.join(list(gather_rows(lm, dev, ids)))
    for method in STRENGTHS:
        if (WORK / method).exists():
            save_result(FIGURES, f"read {method}", measure_texts(lm, dev, ids, load_steer(WORK / method)).to_json())
        if (WORK / f"{method}-domain").exists():
            domain = load_steer(WORK / f"{method}-domain")
            save_result(
                FIGURES,
                f"read {method}, domain on",
                measure_held_out(lm, rows, load_steer(WORK / method), domain).to_json(),
            )
    scores = Vader().scores([text.text for text in dev])
    right = sum(score == (text.label > 0) for score, text in zip(scores, dev, strict=True))
    verdicts = len(dev) - scores.count(UNDECIDED)
    save_result(FIGURES, "vader", {"right of all": right / len(dev), "right of its verdicts": right / verdicts})


@app.command("curve")
def curve_both(data: Data, method: str = "closed-form", strengths: str = "", samples: int = SAMPLES) -> None:
    """The curve of one method over neutral prompts; strengths measured before and not now are kept."""
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[:PROMPTS]
    chosen = [float(s) for s in strengths.split(",")] if strengths else STRENGTHS[method]
    lm: LM = load()
    settings = [{method: s} for s in chosen]
    steers = {method: load_steer(WORK / method)}
    config = GenerationConfig(samples, max_new_tokens=20, score=True, batch_size=144)
    rows = list(generate(lm, prompts, steers, settings, config, progress=bars()))
    points = {p["strength"]: p for p in load_results(FIGURES).get(f"curve {method}", [])}
    points |= {
        point.strength: {**asdict(point), "looping": _looping(rows, method, point.strength)}
        for point in strength_curve(rows, method, Vader())
    }
    save_result(FIGURES, f"curve {method}", [points[strength] for strength in sorted(points)])
    shown = [
        {"prompt": r.prompt, "strength": r.strengths[method], "text": r.text}
        for r in rows
        if r.sample == 0 and r.prompt in prompts[:5] and r.strengths[method] in {min(chosen), -6, 0, 6, max(chosen)}
    ]
    before = [s for s in load_results(FIGURES).get(f"samples {method}", []) if s["strength"] not in chosen]
    save_result(FIGURES, f"samples {method}", before + shown)


@app.command("show")
def show() -> None:
    """Print the table, and draw attribute against perplexity for all methods."""
    print(TABLES["strength-curve"]())
    from matplotlib.figure import Figure

    results = load_results(FIGURES)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    for method, colour, name in (
        ("closed-form", "#1f7a5a", "closed form, at the head"),
        ("deep", "#31589c", "closed form, after the middle layer"),
        ("lora", "#8a5fb0", "closed form, a LoRA"),
        ("gradient", "#b4462f", "published recipe"),
    ):
        points = results.get(f"curve {method}", [])
        base = next((p["perplexity"] for p in points if p["strength"] == 0), 1)
        x = [p["perplexity"] / base for p in points]
        y = [100 * p["positive_share"] for p in points]
        axes.plot(x, y, "o-", color=colour, label=name)
        for number, (p, px, py) in enumerate(zip(points, x, y, strict=True)):
            # Above the falling branch; by turns left and right of the steep rising one.
            left = p["strength"] > 0 and method != "lora" and (number % 2 == 0 or method == "deep")
            text = f"{p['strength']:+g}" if p["strength"] else "0"
            at = (-6, 3) if left else (6, 3) if p["strength"] < 0 else (6, -9)
            if px <= WORST and (p["strength"] or method == "closed-form"):
                axes.annotate(
                    text, (px, py), textcoords="offset points", xytext=at, fontsize=8, ha="right" if left else "left"
                )
    axes.set(xscale="log", xlabel="perplexity, as a multiple of the unsteered model's", ylim=(0, 103))
    axes.set_xlim(0.75, WORST)
    ticks = (0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 6, 10)
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("texts that VADER calls positive (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    write_file(PICTURE, render_figure(figure))


def _looping(rows: Sequence[Continuation], method: str, strength: float) -> float:
    """The share of the continuations at a strength that loop."""
    return round(fmean(rep_3(row.text) > LOOPS for row in rows if row.strengths[method] == strength), 4)


def _drop(*keys: str) -> None:
    """Forget figures of a steer that has been fitted anew."""
    replace_results(FIGURES, {key: value for key, value in load_results(FIGURES).items() if key not in keys})


if __name__ == "__main__":
    app()
