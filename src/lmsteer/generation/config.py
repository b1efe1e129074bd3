"""How text is generated: how many samples, how long, and how each token is drawn. This module does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmsteer.errors import DataError


def _check(name: str, value: float, is_valid: bool, valid: str) -> None:
    if not is_valid:
        raise DataError(f"{name} must be {valid}; it is {value}.")


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is drawn from the model's distribution.

    As in transformers, the temperature is applied first, then top-k, then top-p to the tokens that remain.

    Attributes:
        top_p: nucleus sampling: draw from the smallest set of tokens whose probabilities sum to at least this; above
            0, at most 1 (all tokens). Default 0.9.
        top_k: draw from this many most likely tokens; 0 (the default) for all. transformers' own ``generate`` has a
            default of 50.
        temperature: the divisor of the logits. 0, and anything below 1e-4, takes the most likely token. Default 1.

    Raises:
        DataError: a value is out of range.
    """

    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("top_k", self.top_k, self.top_k >= 0, "0 or more")
        _check("the temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more, and finite")


@dataclass(frozen=True)
class GenerationConfig:
    """How prompts are continued.

    Attributes:
        num_samples: the number of continuations for each prompt and each setting of the strengths. Default 1.
        max_new_tokens: the maximum length of a continuation, in tokens. Default 40.
        sampling: how each token is drawn.
        seed: the seed of all random streams; any integer. Default 0.
        batch_size: the number of sequences that are generated at once. Default 64.
        score: whether to compute the log-likelihood of each continuation under the unsteered model, too. It costs one
            more product with the output embeddings per token.

    Raises:
        DataError: a value is out of range.
    """

    num_samples: int = 1
    max_new_tokens: int = 40
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    batch_size: int = 64
    score: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("the number of samples", self.num_samples),
            ("the batch size", self.batch_size),
            ("max_new_tokens", self.max_new_tokens),
        ):
            _check(name, value, value >= 1, "1 or more")
