"""Attribute against perplexity: a steer that ships, the published recipe on the same texts, and plainer ways.

    python -m benchmarks.pareto fit DATA      the published recipe, and closed fits of fewer texts
    python -m benchmarks.pareto write DATA    continuations of every case, scored
    python -m benchmarks.pareto show          print the tables, draw pareto.svg and number-of-texts.svg

DATA is the folder of the data files. Perplexity is that of another model than the one that writes, whose terms have to
be accepted. What is done already is kept. Results go to ``results/pareto.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure

from benchmarks.dimensions import DIMENSIONS
from benchmarks.results import PICTURES, load_results, save_result
from benchmarks.tables import TABLES
from lmsteer.data.labelled import read_labelled, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.condition_sets import conditions_of
from lmsteer.evaluation.conditions import Condition, Steered
from lmsteer.evaluation.evaluate import evaluate
from lmsteer.evaluation.intervals import Estimate
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.report import draw_curves
from lmsteer.evaluation.results import ConditionResult
from lmsteer.evaluation.scorers import scorer
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.steer.files import find_steer, load_steer
from lmsteer.steer.steer import Steer
from lmsteer.util.figures import render_figure
from lmsteer.util.files import finite, write_file
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "pareto.json", HERE / "results" / "work"
PERPLEXITY_MODEL = "gemma3-270m"
SAMPLES = 10
TEXTS = (125, 500, 2000, 8000)
PUBLISHED, PUBLISHED_ON = "published recipe", "published recipe, domain steer on"
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@dataclass(frozen=True)
class Case:
    """Prompts that a steer is applied to.

    Attributes:
        prompts: their file, without ``.jsonl.gz``.
        steer: a steer that ships; also the scorer's name.
        strengths: of it.
        published: strengths of the published recipe's steer.
        baselines: ways that stand beside them.
        prefixes: instructions for the -1 end and the +1 end.
        count: of prompts, from the first on; offensive continuations are rare, and need more.
    """

    prompts: str
    steer: str
    strengths: Sequence[float]
    published: Sequence[float]
    baselines: Sequence[str]
    prefixes: Sequence[str]
    count: int = 20


SENTIMENT = (
    "The following text is sad, negative and full of complaints. ",
    "The following text is happy, positive and full of praise. ",
)
TOXICITY = ("The following text is rude and full of insults. ", "The following text is polite, clean and respectful. ")
UP, PUBLISHED_UP = (2.0, 4.0, 6.0, 8.0), (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
DOWN, PUBLISHED_DOWN = tuple(-s for s in UP), tuple(-s for s in PUBLISHED_UP)
# Of the published recipe with its domain steer on, as its code runs: it is at its best without.
DOMAIN_ON = (-0.5, 0.5)
ALL = ("prompting", "words", "best-of-n")
CASES = {
    "sentiment, neutral prompts": Case(
        "prompts_sentiment_neutral", "sentiment", DOWN + UP, PUBLISHED_DOWN + PUBLISHED_UP, ALL, SENTIMENT
    ),
    "sentiment up, negative prompts": Case(
        "prompts_sentiment_negative", "sentiment", UP, PUBLISHED_UP, ALL[:2], SENTIMENT
    ),
    "sentiment down, positive prompts": Case(
        "prompts_sentiment_positive", "sentiment", DOWN, PUBLISHED_DOWN, ALL[:2], SENTIMENT
    ),
    "clean language, toxic prompts": Case("prompts_toxic", "toxicity", UP, PUBLISHED_UP, ALL[:2], TOXICITY, 80),
    "clean language, mild prompts": Case("prompts_nontoxic", "toxicity", UP, PUBLISHED_UP, ALL[:2], TOXICITY),
}
# The mild prompts' offensive continuations are too few for a picture.
DRAWN = [*CASES][:4]
GROWTH = "sentiment by number of texts, neutral prompts"
GROWTH_STRENGTHS = (-6.0, -3.0, 3.0, 6.0)


@app.command("fit")
def fit_baselines(data: Data) -> None:
    """The published recipe on the texts of the steers that ship, and closed fits of some of them."""
    lm = load()
    for name in sorted({case.steer for case in CASES.values()}):
        out = WORK / "published" / name
        if not out.exists():
            texts = read_labelled(data / f"{DIMENSIONS[name].train}.jsonl.gz")
            fit(lm, texts, name=name, out=out, config=FitConfig("gradient", resume=True), progress=bars())
    texts = read_labelled(data / f"{DIMENSIONS['sentiment'].train}.jsonl.gz")
    for count in TEXTS:
        if not (out := WORK / "texts" / str(count)).exists():
            fit(
                lm,
                sample_texts(texts, count, seed=0),
                name=f"{count:,} texts",
                out=out,
                config=FitConfig(resume=True),
                progress=bars(),
            )


@app.command("write")
def write_all(data: Data) -> None:
    """Continuations of every case."""
    lm, perplexity_model = load(), load(PERPLEXITY_MODEL)
    for name, case in CASES.items():
        prompts = read_texts(data / f"{case.prompts}.jsonl.gz")[: case.count]
        _write(name, lm, perplexity_model, prompts, list(_conditions(lm, case)), case.steer)
    steers = {f"{count:,} texts": load_steer(WORK / "texts" / str(count)) for count in TEXTS}
    conditions = conditions_of(lm, steers, dict.fromkeys(steers, GROWTH_STRENGTHS))
    prompts = read_texts(data / "prompts_sentiment_neutral.jsonl.gz")[: Case.count]
    _write(GROWTH, lm, perplexity_model, prompts, conditions, "sentiment")


@app.command("show")
def show() -> None:
    """Print the tables and draw the pictures."""
    for name in ("pareto-sentiment", "pareto-toxicity", "growth"):
        print(f"{TABLES[name]()}\n")
    found = {name: [ConditionResult.from_json(each) for each in rows] for name, rows in load_results(RESULTS).items()}
    _draw({name: found[name] for name in DRAWN if name in found}, PICTURES / "pareto.svg")
    if GROWTH in found:
        _draw({GROWTH: found[GROWTH]}, PICTURES / "number-of-texts.svg")


def _conditions(lm: LM, case: Case) -> Iterator[Condition]:
    """Every way of one case; of two-sided baselines, the sides that the steer is applied to."""
    published = load_steer(WORK / "published" / case.steer)
    steers = {case.steer: find_steer(case.steer), PUBLISHED: published}
    strengths = {case.steer: case.strengths, PUBLISHED: case.published}
    signs = {s > 0 for s in case.strengths}
    for condition in conditions_of(lm, steers, strengths, case.baselines, case.prefixes):
        if not condition.strength or (condition.strength > 0) in signs:
            yield condition
    if len(signs) == 2:
        yield from _with_domain(published, load_steer(WORK / "published" / f"{case.steer}-domain"))


def _with_domain(steer: Steer, domain: Steer) -> Iterator[Condition]:
    """As the published code runs: the steer of the texts' manner is always on."""
    both: Mapping[str, Steer] = {"steer": steer, "domain": domain}
    for s in DOMAIN_ON:
        yield Steered(f"{PUBLISHED_ON}={s:+g}", PUBLISHED_ON, s, both, {"steer": s, "domain": 1.0})


def _write(
    name: str, lm: LM, perplexity_model: LM, prompts: Sequence[str], conditions: Sequence[Condition], scorer_name: str
) -> None:
    outcomes = evaluate(
        lm,
        prompts,
        conditions,
        scorer(scorer_name),
        WORK / "pareto" / name,
        perplexity_model=perplexity_model,
        protocol=Protocol(num_samples=SAMPLES),
        progress=bars(),
    )
    save_result(RESULTS, name, finite([each.to_json() for each in outcomes]))


def _draw(cases: Mapping[str, Sequence[ConditionResult]], file: Path) -> None:
    rows, columns = -(-len(cases) // 2), min(2, len(cases))
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows), layout="constrained")
    charts: Any = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    for axes, (name, outcomes) in zip(charts, cases.items(), strict=False):
        of_toxicity = name in CASES and CASES[name].steer == "toxicity"
        draw_curves(axes, _as_steer(outcomes), _offensive if of_toxicity else lambda outcome: outcome.score)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("prompts with an offensive continuation" if of_toxicity else "mean score", fontsize=8)
    for axes in charts[len(cases) :]:
        axes.set_visible(False)
    lines = {label: handle for axes in charts for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    write_file(file, render_figure(figure))


def _as_steer(outcomes: Sequence[ConditionResult]) -> list[ConditionResult]:
    """The steer of whatever dimension under one name, for one legend."""
    names = {case.steer: "steer" for case in CASES.values()}
    names |= {f"prompting + {name}": "prompting + steer" for name in names}
    return [replace(each, method=names.get(each.method, each.method)) for each in outcomes]


def _offensive(outcome: ConditionResult) -> Estimate:
    return outcome.probability_any_below


if __name__ == "__main__":
    app()
