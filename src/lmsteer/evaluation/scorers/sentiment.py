"""The default judge of sentiment: two logistic regressions on SST-2 phrases, their probabilities averaged.

One sees words and pairs of words, the other the mean states of a sentence encoder. ``python -m benchmarks.scorers``
makes their weights.
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

# Of the encoder: the layers whose mean states are read (docs/log.md, "Scorers").
LAYERS = (1, 4)


class Sentiment:
    """Positive sentiment, of sentences such as film reviews are made of."""

    name = "sentiment"

    def __init__(self) -> None:
        self.about = packaged_metrics(self.name)
        with as_file(files("lmsteer") / "assets" / "scorers" / "sentiment.safetensors") as file:
            self._weights = load_file(file)
            self.fingerprint = file_sha256(file)[:32]
        self._encoder = Encoder()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability that each text is positive; a blank one is neither."""
        if not texts:
            return []
        weights = self._weights
        of_words = ngram_logits(texts, weights["ngrams"], float(weights["ngrams_bias"]))
        means = self._encoder.means(texts, LAYERS).flatten(1)
        of_states = state_logits(means, weights["states"], weights["states_bias"])
        scores = (of_words.sigmoid() + of_states.sigmoid()) / 2
        return [score if text.strip() else UNDECIDED for text, score in zip(texts, scores.tolist(), strict=True)]


def state_logits(states: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Log-odds (N,) of texts by their mean states (N, layers · d) under weights (layers · d,)."""
    return states.double() @ weights.double() + bias.double()
