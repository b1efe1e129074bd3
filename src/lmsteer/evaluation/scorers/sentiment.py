"""The default scorer of sentiment: the mean probability of two logistic regressions on SST-2 phrases.

One takes words and pairs of words, the other the mean states of a sentence encoder. ``python -m benchmarks.scorers``
fits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files

from safetensors.torch import load_file
from torch import Tensor

from lmsteer.evaluation.scorers.base import UNDECIDED, packaged_metrics
from lmsteer.evaluation.scorers.encoder import Encoder
from lmsteer.evaluation.scorers.ngrams import ngram_logits
from lmsteer.util.files import file_sha256

# Layers of the encoder whose mean states are features (docs/log.md, "Scorers").
LAYERS = (1, 4)


class Sentiment:
    """Positive sentiment of sentences like those of film reviews."""

    name = "sentiment"
    is_probability = True

    def __init__(self) -> None:
        self.metrics = packaged_metrics(self.name)
        with as_file(files("lmsteer") / "assets" / "scorers" / "sentiment.safetensors") as file:
            self._weights = load_file(file)
            self.fingerprint = file_sha256(file)[:32]
        self._encoder = Encoder()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability that each text is positive; a blank text is undecided."""
        if not texts:
            return []
        weights = self._weights
        of_words = ngram_logits(texts, weights["ngrams"], float(weights["ngrams_bias"]))
        means = self._encoder.means(texts, LAYERS).flatten(1)
        of_states = state_logits(means, weights["states"], weights["states_bias"])
        scores = (of_words.sigmoid() + of_states.sigmoid()) / 2
        return [score if text.strip() else UNDECIDED for text, score in zip(texts, scores.tolist(), strict=True)]


def state_logits(states: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Log-odds (N,) of texts from their mean states (N, layers · d), under weights (layers · d,), float64."""
    return states.double() @ weights.double() + bias.double()
