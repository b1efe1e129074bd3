"""The packaged scorers: fit the default scorer of sentiment, and measure all of them on labelled test data.

    python -m benchmarks.scorers DATA             write assets/scorers/sentiment.safetensors and metrics.json
    python -m benchmarks.scorers DATA --search    which two layers of the encoder tell most, on SST-2 dev
    python -m benchmarks.scorers DATA --measure   write metrics.json alone

DATA is a folder of ``sst2_phrases_train``, ``sst2_dev``, ``sst2_test``, ``customer_reviews``, ``paradetox_test`` and
``toxicity_wikipedia_test`` as ``.jsonl.gz``. A rerun on the same machine writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.data import labelled_texts
from lmsteer.data.labelled import LabelledText
from lmsteer.evaluation.scorers.base import UNDECIDED, Scorer, ScorerMetrics
from lmsteer.evaluation.scorers.encoder import Encoder
from lmsteer.evaluation.scorers.named import scorer
from lmsteer.evaluation.scorers.ngrams import BUCKETS, buckets, ngram_logits, size
from lmsteer.evaluation.scorers.sentiment import LAYERS, state_logits
from lmsteer.reading.platt import auc
from lmsteer.util.files import replace_file, write_file

ASSETS = Path(__file__).parent.parent / "src" / "lmsteer" / "assets" / "scorers"
TRAIN = "sst2_phrases_train"
TESTS = {
    "sentiment": ("sst2_test", "customer_reviews"),
    "sentiment-vader": ("sst2_test", "customer_reviews"),
    "toxicity": ("paradetox_test", "toxicity_wikipedia_test"),
}
# Inverse weights of L2, chosen on SST-2 dev (docs/log.md, "Scorers").
OF_NGRAMS, OF_STATES = 2.0, 0.1
app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Argument(help="Folder of the data files.")],
    search: Annotated[bool, typer.Option("--search", help="Only try pairs of layers.")] = False,
    only_measure: Annotated[bool, typer.Option("--measure", help="Only score the test texts.")] = False,
) -> None:
    """Fit, measure, and write both down."""
    if search:
        return try_layers(data)
    if not only_measure:
        fit(data)
    return measure(data)


def try_layers(data: Path) -> None:
    """Right on SST-2 dev, area under the curve and log loss of each pair of layers, n-grams beside them."""
    train, dev = labelled_texts(data, TRAIN), labelled_texts(data, "sst2_dev")
    texts, held_out = [text.text for text in train], [text.text for text in dev]
    encoder, every = Encoder(), range(7)
    x, z = encoder.means(texts, every), encoder.means(held_out, every)
    of_words = _of_words(texts, _positive(train))
    words = ngram_logits(held_out, of_words["ngrams"], float(of_words["ngrams_bias"])).sigmoid()
    for pair in map(list, combinations(every, 2)):
        of_states = _of_states(x[:, pair].flatten(1), _positive(train))
        states = state_logits(z[:, pair].flatten(1), of_states["states"], of_states["states_bias"]).sigmoid()
        print(pair, *_metrics((words + states) / 2, torch.from_numpy(_positive(dev))), flush=True)


def _metrics(p: Tensor, positive: Tensor) -> list[str]:
    loss = -torch.where(positive, p, 1 - p).log().mean()
    return [f"{value:.4f}" for value in (((p > UNDECIDED) == positive).double().mean(), auc(p, positive), loss)]


def fit(data: Path) -> None:
    """Fit both regressions and write their weights."""
    train = labelled_texts(data, TRAIN)
    texts, positive = [text.text for text in train], _positive(train)
    states = Encoder().means(texts, LAYERS).flatten(1)
    factors = {**_of_words(texts, positive), **_of_states(states, positive)}
    ASSETS.mkdir(exist_ok=True)
    with replace_file(ASSETS / "sentiment.safetensors") as aside:
        save_file(factors, aside)
    print({name: tuple(factor.shape) for name, factor in factors.items()}, flush=True)


def _of_words(texts: Sequence[str], positive: Any) -> dict[str, Tensor]:
    """Weights (BUCKETS,) and offset (1,) of n-grams."""
    model = LogisticRegression(C=OF_NGRAMS, max_iter=300).fit(_ngrams(texts), positive)
    weights, offset = torch.from_numpy(model.coef_[0]), torch.from_numpy(model.intercept_)
    return {"ngrams": weights.half(), "ngrams_bias": offset.float()}


def _of_states(states: Tensor, positive: Any) -> dict[str, Tensor]:
    """Weights (layers · d,) and offset (1,) of the encoder's states (N, layers · d), their scaling folded in."""
    scaler = StandardScaler()
    model = LogisticRegression(C=OF_STATES, max_iter=1000).fit(scaler.fit_transform(states.double().numpy()), positive)
    weights = model.coef_[0] / scaler.scale_
    offset = model.intercept_ - weights @ scaler.mean_
    return {"states": torch.from_numpy(weights).float(), "states_bias": torch.from_numpy(offset).float()}


def measure(data: Path) -> None:
    """Score labelled texts by each scorer, and write its accuracy."""
    figures: dict[str, list[dict[str, Any]]] = {}
    for name, sets in TESTS.items():
        one = scorer(name)
        found = [figures_of(one, file, labelled_texts(data, file)) for file in sets]
        print(name, *found, sep="\n    ", flush=True)
        figures[name] = [asdict(each) for each in found]
    write_file(ASSETS / "metrics.json", json.dumps(figures, indent=1) + "\n")


def figures_of(one: Scorer, data: str, texts: Sequence[LabelledText]) -> ScorerMetrics:
    """How well a scorer does on the texts of a data set."""
    scores = torch.tensor(one.scores([text.text for text in texts]))
    positive = torch.from_numpy(_positive(texts))
    verdicts = scores != UNDECIDED
    right = ((scores > UNDECIDED) == positive)[verdicts]
    accuracy = float(right.double().mean())
    return ScorerMetrics(data, len(texts), len(right), round(accuracy, 4), round(auc(scores, positive), 4))


def _positive(texts: Sequence[LabelledText]) -> Any:
    return np.array([text.label > 0 for text in texts])


def _ngrams(texts: Sequence[str]) -> Any:
    """Features (N, BUCKETS)."""
    rows = [buckets(text) for text in texts]
    values = np.concatenate([np.full(len(row), size(len(row))) for row in rows if row])
    starts = np.cumsum([0, *map(len, rows)])
    return csr_matrix((values, np.concatenate([np.array(row, int) for row in rows]), starts), (len(rows), BUCKETS))


if __name__ == "__main__":
    app()
