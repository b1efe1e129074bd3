"""Steers of several dimensions, fitted on real data and read on texts that no fit has seen.

    python -m benchmarks.dimensions fit DATA      a steer for each, kept in results/work; continues where it stopped
    python -m benchmarks.dimensions read DATA     test texts: signs, area under the curve, and those of a regression

DATA is a folder of ``NAME_train.jsonl.gz`` and ``NAME_test.jsonl.gz``. The regression is logistic, on the mean hidden
state of the training texts, 4,000 at most: an upper line, which can neither steer nor point at words. Results go to
``results/dimensions.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.results import replace_results
from lmsteer.data.labelled import LabelledSource, LabelledText
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.reading.analyse import analyse
from lmsteer.reading.platt import auc
from lmsteer.steer.files import load_steer
from lmsteer.util.progress import bars

RESULTS = Path(__file__).parent / "results" / "dimensions.json"
WORK = Path(__file__).parent / "results" / "work" / "dimensions"
# Texts of the regression, at most.
REGRESSED = 4000
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@dataclass(frozen=True)
class Dimension:
    """A dimension and its data.

    Attributes:
        train: file that it is fitted on, without ``.jsonl.gz``.
        test: file that it is read on.
        label: what +1 means.
    """

    train: str
    test: str
    label: str


DIMENSIONS = {
    "sentiment": Dimension("sst5_train", "sst2_test", "positive sentiment"),
    "toxicity": Dimension("paradetox_train", "paradetox_test", "clean language"),
    "politeness": Dimension("politeness_wiki_train", "politeness_wiki_test", "polite requests"),
    "simplicity": Dimension("simplicity_train", "simplicity_test", "elementary wording"),
    "emotion": Dimension("emotion_train", "emotion_test", "joy and gratitude, not anger and sadness"),
    "clickbait": Dimension("clickbait_train", "clickbait_test", "clickbait headlines, not news"),
}


@app.command("fit")
def fit_all(data: Data) -> None:
    """Fit a steer for each dimension that has none yet."""
    lm = load()
    for name, dimension in DIMENSIONS.items():
        if not (WORK / name).exists():
            source = LabelledSource(str(data / f"{dimension.train}.jsonl.gz"))
            texts, out = source.read(), WORK / name
            config = FitConfig(resume=True)
            fit(lm, texts, name=name, label=dimension.label, source=source, out=out, config=config, progress=bars())


@app.command("read")
def read_all(data: Data) -> None:
    """Read the test texts of each dimension, and print the table."""
    lm = load()
    table = Table("dimension", "texts", "signs", "area under the curve", "of the regression: signs", "area")
    results: dict[str, dict[str, Any]] = {}
    for name, dimension in DIMENSIONS.items():
        train, test = (_labelled(data, file) for file in (dimension.train, dimension.test))
        found = analyse(lm, [text.text for text in test], {name: load_steer(WORK / name)}, spans=0, progress=bars())
        evidence = torch.tensor([analysis.dimensions[name].position.score for analysis in found])
        labels = torch.tensor([text.label for text in test])
        figures = {"": evidence, "regression_": _regression(lm, train[:REGRESSED], test)}
        results[name] = {"texts": len(test)}
        for prefix, values in figures.items():
            results[name][f"{prefix}sign_accuracy"] = float((values.sign() == labels.sign()).float().mean())
            results[name][f"{prefix}auc"] = auc(values, labels > 0)
        row = results[name]
        cells = [
            f"{row['sign_accuracy']:.1%}",
            f"{row['auc']:.3f}",
            f"{row['regression_sign_accuracy']:.1%}",
            f"{row['regression_auc']:.3f}",
        ]
        table.add_row(name, str(len(test)), *cells)
        replace_results(RESULTS, results)
    Console(width=110).print(table)


def _labelled(data: Path, file: str) -> list[LabelledText]:
    """Texts with a label that is not 0, in an order of no meaning, without repeats."""
    texts = {text.digest: text for text in LabelledSource(str(data / f"{file}.jsonl.gz")).read() if text.label}
    return [texts[digest] for digest in sorted(texts)]


def _regression(lm: LM, train: list[LabelledText], test: list[LabelledText]) -> Tensor:
    """Log-odds of test texts by a logistic regression on mean hidden states."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(_means(lm, train), [text.label > 0 for text in train])
    return torch.from_numpy(model.decision_function(_means(lm, test))).float()


def _means(lm: LM, texts: list[LabelledText]) -> Any:
    """Mean hidden state (N, d) of each text."""
    ids = lm.encode([text.text for text in texts])
    means = torch.zeros(len(ids), lm.hidden_size)
    for batch in length_buckets(ids):
        padded, mask = pad([ids[i] for i in batch], lm.pad_id, lm.device)
        h = lm.hidden_states(padded, mask).float() * mask[..., None]
        means[batch] = (h.sum(1) / mask.sum(1, keepdim=True)).cpu()
    return means.numpy()


if __name__ == "__main__":
    app()
