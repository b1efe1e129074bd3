"""How text is generated: how many samples, how long, how each token is drawn, how far it is steered.

This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

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
class Limits:
    """How far steers may move each token. Every limit is off by default; ``lmsteer.generation.limits`` applies them.

    Within a block of ``lm.steered``, the model with the steers of the block counts as the unsteered one.

    Attributes:
        plausible: only tokens that the unsteered model gives at least this share of its highest probability may be
            drawn; at least 0 (the default: all tokens) and below 1.
        fresh: steers do not act on the logits of the tokens among the last this many of the continuation; 0 (the
            default) for none. A number as large as ``max_new_tokens`` counts the whole continuation.
        kl: the largest divergence KL(steered || unsteered) of a token's distribution at temperature 1, in nats: where
            it would be larger, the strengths are scaled down for this token. Above 0; infinity (the default) for none.

    Raises:
        DataError: a value is out of range.
    """

    plausible: float = 0.0
    fresh: int = 0
    kl: float = math.inf

    def __post_init__(self) -> None:
        _check("plausible", self.plausible, 0 <= self.plausible < 1, "at least 0 and below 1")
        _check("fresh", self.fresh, self.fresh >= 0, "0 or more")
        _check("kl", self.kl, self.kl > 0, "above 0")

    @property
    def on(self) -> dict[str, float]:
        """The limits that are on, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(NO_LIMITS, name)}

    @property
    def of_steers(self) -> list[str]:
        """The names of those that are on and have an effect on steered rows alone."""
        return [name for name in self.on if name != "plausible"]


NO_LIMITS = Limits()


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
        limits: how far steers may move each token.
        readings: whether to keep what is known of each token: its log-likelihood with and without the steers, the
            divergence of its distribution, and its evidence (``lmsteer.generation.readings``). It costs a few
            hundredths of a token's time.
        stop: strings that end a continuation, which is the text in front of the first of them; special tokens, which
            have no text, end it, too. Default none.

    Raises:
        DataError: a value is out of range, or a stop string is empty.
    """

    num_samples: int = 1
    max_new_tokens: int = 40
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    batch_size: int = 64
    score: bool = False
    limits: Limits = NO_LIMITS
    readings: bool = False
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if "" in self.stop:
            raise DataError("a stop string is empty: it would end every continuation before its first token.")
        for name, value in (
            ("the number of samples", self.num_samples),
            ("the batch size", self.batch_size),
            ("max_new_tokens", self.max_new_tokens),
        ):
            _check(name, value, value >= 1, "1 or more")


class _Limited(Protocol):
    """A dataclass with limits."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def limits(self) -> Limits: ...


def record_of(config: _Limited) -> dict[str, Any]:
    """The fields of a configuration, for a file; limits, readings and stop strings only where there are any."""
    record = {**asdict(config), "limits": config.limits.on}
    return {name: value for name, value in record.items() if value or name not in ("limits", "readings", "stop")}
