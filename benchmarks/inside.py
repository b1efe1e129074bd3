"""Steers inside the model beside the head's, on more dimensions (clean language, polite requests) and one more model.

    python -m benchmarks.inside fit DATA      every case at every choice of sites, from 512 texts; --sites: at some
    python -m benchmarks.inside write DATA    continuations under each, at several strengths, scored
    python -m benchmarks.inside show          print the table

DATA is the folder of the data files. Prompts of clean language are toxic themselves. The scorer of politeness is a
logistic regression on the mean states of a sentence encoder, of requests to another site (Stack Exchange) than those of
the fit (Wikipedia). Perplexity is that of the unsteered model. Gemma 3 270M needs ``LMSTEER_ACCEPT_TERMS=gemma3-270m``.
What is done already is kept. Results go to ``results/inside.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.claims import HELD_OUT, Bench
from benchmarks.data import labelled_texts
from benchmarks.dimensions import DIMENSIONS, Dimension
from benchmarks.results import check_known, load_results, save_result
from benchmarks.scorers import figures_of
from benchmarks.tables import TABLES
from benchmarks.tables.inside import SITES, TEXTS, UNSTEERED, of_fit, of_strength
from lmsteer.baselines.steer import steer_baseline
from lmsteer.data.labelled import LabelledText, sample_texts
from lmsteer.data.prompts import read_texts
from lmsteer.evaluation.conditions import Condition, Steered, Unsteered
from lmsteer.evaluation.evaluate import evaluate
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.scorers import Scorer, scorer
from lmsteer.evaluation.scorers.base import UNDECIDED, ScorerMetrics
from lmsteer.evaluation.scorers.encoder import Encoder
from lmsteer.evaluation.scorers.sentiment import LAYERS
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.model.loading import load
from lmsteer.model.sources.pypi import DEFAULT_MODEL
from lmsteer.steer.files import load_steer
from lmsteer.util.files import finite
from lmsteer.util.progress import bars

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results" / "inside.json", HERE / "results" / "work" / "inside"
PROMPTS, PROTOCOL = slice(0, 100), Protocol(num_samples=2)
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]
Names = Annotated[list[str] | None, typer.Argument(help="Some cases.")]


@dataclass(frozen=True)
class Case:
    """What a dimension is measured on.

    Attributes:
        prompts: their file, without ``.jsonl.gz``.
        signs: of the strengths.
        head: strengths of the steer at the head, whose unit is another for each fit.
        inside: strengths of steers inside the model.
        dimension: the dimension, whose data it is fitted on; by default the case has its name.
        model: the model.
    """

    prompts: str
    signs: tuple[int, ...]
    head: tuple[float, ...]
    inside: tuple[float, ...]
    dimension: str = ""
    model: str = DEFAULT_MODEL


CASES = {
    "toxicity": Case("prompts_toxic", (1,), (1.0, 2.0, 3.0, 6.0), (3.0, 6.0)),
    "politeness": Case("prompts_sentiment_neutral", (1, -1), (3.0, 6.0), (3.0,)),
    "gemma": Case("prompts_sentiment_neutral", (1, -1), (3.0, 6.0), (3.0, 6.0), "sentiment", "gemma3-270m"),
}


class Politeness:
    """Polite requests, by a regression that this benchmark fits.

    Args:
        data: folder of the data files.
    """

    name, is_probability, fingerprint = "politeness", True, "stack-exchange-1"

    def __init__(self, data: Path) -> None:
        self.metrics: tuple[ScorerMetrics, ...] = ()
        texts = labelled_texts(data, "politeness_stackexchange")
        self._encoder = Encoder()
        self._model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        self._model.fit(self._states([text.text for text in texts]), [text.label > 0 for text in texts])

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability that each text is polite; a blank text is undecided."""
        if not texts:
            return []
        found = self._model.predict_proba(self._states(texts))[:, 1]
        return [float(p) if text.strip() else UNDECIDED for text, p in zip(texts, found, strict=True)]

    def _states(self, texts: Sequence[str]) -> Any:
        return self._encoder.means(texts, LAYERS).flatten(1).double().numpy()


@app.command("fit")
def fit_all(
    data: Data, names: Names = None, chosen: Annotated[list[str] | None, typer.Option("--sites")] = None
) -> None:
    """Fit every case at every choice of sites, and read unseen texts with each."""
    check_known(names, CASES)
    check_known(chosen, SITES)
    for name in names or CASES:
        lm = load(CASES[name].model)
        texts = sample_texts(labelled_texts(data, _dimension(name).train), TEXTS, 0)
        bench = Bench(lm, (), sample_texts(labelled_texts(data, _dimension(name).test), HELD_OUT, 0))
        for sites in chosen or SITES:
            if of_fit(name, sites) not in load_results(RESULTS):
                # Fits that are interrupted are resumed: on a large vocabulary one takes hours.
                config, out = FitConfig(sites=(sites,), resume=True), _folder(name, sites)
                steer = fit(lm, texts, name=name, out=out, config=config, progress=bars()).steer
                save_result(RESULTS, of_fit(name, sites), {"fit": steer.card.fit, **bench.gain(steer_baseline(steer))})


@app.command("write")
def write_all(data: Data, names: Names = None) -> None:
    """Continuations of each, at its strengths."""
    check_known(names, CASES)
    for name in names or CASES:
        lm = load(CASES[name].model)
        judge = _judge(name, data)
        if (key := f"{name}, scorer") not in load_results(RESULTS):
            save_result(RESULTS, key, asdict(figures_of(judge, *_test(data, name))))
        conditions: dict[str, Condition] = {of_strength(name, UNSTEERED, 0.0): Unsteered()}
        for sites in SITES:
            if not _folder(name, sites).exists():
                continue
            steer = load_steer(_folder(name, sites))
            for size in CASES[name].head if sites == "head" else CASES[name].inside:
                for strength in (sign * size for sign in CASES[name].signs):
                    key = of_strength(name, sites, strength)
                    conditions[key] = Steered(key, sites, strength, {sites: steer}, {sites: strength})
        prompts = read_texts(data / f"{CASES[name].prompts}.jsonl.gz")[PROMPTS]
        for key, condition in conditions.items():
            if key not in load_results(RESULTS):
                (found,) = evaluate(lm, prompts, [condition], judge, WORK / "rows" / name, protocol=PROTOCOL)
                save_result(RESULTS, key, finite(found.to_json()))


@app.command("show")
def show() -> None:
    """Print the table."""
    print(TABLES["inside"]())


def _judge(name: str, data: Path) -> Scorer:
    return Politeness(data) if name == "politeness" else scorer(CASES[name].dimension or name)


def _dimension(name: str) -> Dimension:
    return DIMENSIONS[CASES[name].dimension or name]


def _test(data: Path, name: str) -> tuple[str, list[LabelledText]]:
    return _dimension(name).test, labelled_texts(data, _dimension(name).test)


def _folder(name: str, sites: str) -> Path:
    return WORK / name / sites


if __name__ == "__main__":
    torch.manual_seed(0)
    app()
