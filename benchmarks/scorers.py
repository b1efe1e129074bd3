"""The packaged scorers: fit the default judge of sentiment, and measure all of them on labelled test data.

    python -m benchmarks.scorers layers DATA     which two layers of the encoder tell most, on SST-2 dev
    python -m benchmarks.scorers fit DATA        write assets/scorers/sentiment.safetensors
    python -m benchmarks.scorers measure DATA    write assets/scorers/figures.json

DATA is a folder of ``sst2_phrases_train``, ``sst2_dev``, ``sst2_test``, ``customer_reviews``, ``paradetox_test`` and
``toxicity_wikipedia_test`` as ``.jsonl.gz``.
"""

from __future__ import annotations

import json
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

from lmsteer.evaluation.calibration import auc
from lmsteer.evaluation.scorers.base import UNDECIDED
from lmsteer.evaluation.scorers.encoder import Encoder
from lmsteer.evaluation.scorers.named import scorer
from lmsteer.evaluation.scorers.ngrams import BUCKETS, buckets
from lmsteer.evaluation.scorers.sentiment import LAYERS
from lmsteer.files import replace_file, write_file
from lmsteer.fitting.data import LabelledText, read_labelled

ASSETS = Path(__file__).parent.parent / "src" / "lmsteer" / "assets" / "scorers"
TRAIN = "sst2_phrases_train"
TESTS = {
    "sentiment": ("sst2_test", "customer_reviews"),
    "sentiment-vader": ("sst2_test", "customer_reviews"),
    "toxicity": ("paradetox_test", "toxicity_wikipedia_test"),
}
# Inverse weights of L2, chosen on SST-2 dev.
OF_NGRAMS, OF_STATES = 3.0, 0.03
app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Argument(help="Folder of the data files.")]


@app.command()
def layers(data: Data) -> None:
    """Try pairs of layers, fitted on every eighth phrase."""
    train, dev = _read(data, TRAIN)[::8], _read(data, "sst2_dev")
    encoder = Encoder()
    every = range(7)
    x, z = (encoder.means([text.text for text in texts], every).numpy() for texts in (train, dev))
    for pair in combinations(every, 2):
        scaler = StandardScaler().fit(x[:, pair].reshape(len(x), -1))
        model = LogisticRegression(C=OF_STATES, max_iter=300)
        model.fit(scaler.transform(x[:, pair].reshape(len(x), -1)), _positive(train))
        score = model.score(scaler.transform(z[:, pair].reshape(len(z), -1)), _positive(dev))
        print(pair, f"{score:.4f}", flush=True)


@app.command()
def fit(data: Data) -> None:
    """Fit both regressions; the same bytes on a rerun."""
    train = _read(data, TRAIN)
    texts, positive = [text.text for text in train], _positive(train)
    of_words = LogisticRegression(C=OF_NGRAMS, max_iter=300).fit(_ngrams(texts), positive)
    states = Encoder().means(texts, LAYERS).flatten(1).double().numpy()
    scaler = StandardScaler().fit(states)
    of_states = LogisticRegression(C=OF_STATES, max_iter=1000).fit(scaler.transform(states), positive)
    weights = of_states.coef_[0] / scaler.scale_
    factors = {
        "ngrams": torch.from_numpy(of_words.coef_[0]).half(),
        "ngrams_bias": torch.from_numpy(of_words.intercept_).float(),
        "states": torch.from_numpy(weights).float(),
        "states_bias": torch.from_numpy(of_states.intercept_ - weights @ scaler.mean_).float(),
    }
    ASSETS.mkdir(exist_ok=True)
    with replace_file(ASSETS / "sentiment.safetensors") as aside:
        save_file(factors, aside)
    print({name: tuple(factor.shape) for name, factor in factors.items()})


@app.command()
def measure(data: Data) -> None:
    """Judge labelled texts by each scorer."""
    figures: dict[str, dict[str, Any]] = {}
    for name, sets in TESTS.items():
        judge = scorer(name)
        for file in sets:
            texts = _read(data, file)
            scores = torch.tensor(judge.scores([text.text for text in texts]))
            figures.setdefault(name, {})[file] = _figures(scores, torch.from_numpy(_positive(texts)))
            print(name, file, figures[name][file], flush=True)
    write_file(ASSETS / "figures.json", json.dumps(figures, indent=1) + "\n")


def _figures(scores: Tensor, positive: Tensor) -> dict[str, float]:
    verdicts = scores != UNDECIDED
    right = (scores > UNDECIDED) == positive
    return {
        "texts": len(scores),
        "verdicts": int(verdicts.sum()),
        "accuracy": round(float(right[verdicts].float().mean()), 4),
        "auc": round(auc(scores, positive), 4),
    }


def _read(data: Path, file: str) -> list[LabelledText]:
    return [text for text in read_labelled(data / f"{file}.jsonl.gz") if text.label]


def _positive(texts: list[LabelledText]) -> Any:
    return np.array([text.label > 0 for text in texts])


def _ngrams(texts: list[str]) -> Any:
    """Features (N, BUCKETS) of length 1."""
    rows = [buckets(text) for text in texts]
    values = np.concatenate([np.full(len(row), len(row) ** -0.5) for row in rows if row])
    starts = np.cumsum([0, *map(len, rows)])
    return csr_matrix((values, np.concatenate([np.array(row, int) for row in rows]), starts), (len(rows), BUCKETS))


if __name__ == "__main__":
    app()
