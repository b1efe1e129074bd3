"""The settings of a fit, and the conditions under which a gist adapter is fitted and used."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from lmsteer.errors import DataError

# Known outputs are longer than the continuations that other commands measure.
EVALUATION_MAX_NEW_TOKENS = 64
# More than any model's hidden size, than any gist is meant to have, and than any set of instructions.
_MAX_RANK, _MAX_TOKENS, _MAX_BATCH = 1 << 16, 1 << 16, 1 << 31


class GistCondition(StrEnum):
    """What the attention mask hides: the gist condition and its two controls (Mu et al., 2023, section 4.1).

    ``GIST``: tokens after the gist tokens do not see the prompt. ``POSITIVE``: nothing is hidden. ``NEGATIVE``: the
    gist tokens do not see the prompt either, so that no information about it reaches the tokens after it.
    """

    GIST = "gist"
    POSITIVE = "positive"
    NEGATIVE = "negative"


@dataclass(frozen=True)
class GistConfig:
    """How a gist adapter is fitted.

    Attributes:
        tokens: number of gist tokens, G.
        share_embedding: whether all gist tokens have one embedding.
        rank: rank of the LoRA.
        full: whether all weights but the embeddings are trained in place of a LoRA; a learning rate of 1e-5 suits it.
        condition: condition of the attention mask; controls are fitted as the gist condition is.
        steps: number of optimizer steps (AdamW).
        batch_size: examples per step and process.
        learning_rate: highest learning rate; it falls to zero by a cosine.
        seed: seed of the LoRA and of the order of examples.
        tokens_per_microbatch: number of tokens, padding included, whose activations are kept at once. Longer batches
            are computed in several parts, with the same gradients.
        eval_steps: number of steps between two evaluations on held-out instructions, and between two checkpoints.

    Raises:
        DataError: a setting is out of its range.
    """

    tokens: int = 1
    share_embedding: bool = False
    rank: int = 8
    full: bool = False
    condition: GistCondition = GistCondition.GIST
    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 1e-3
    seed: int = 0
    tokens_per_microbatch: int = 6144
    eval_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("tokens", "rank", "steps", "batch_size", "tokens_per_microbatch", "eval_steps"):
            if getattr(self, name) < 1:
                raise DataError(f"{name.replace('_', ' ')} must be one or more, not {getattr(self, name)}.")
        for name, most in (("rank", _MAX_RANK), ("tokens", _MAX_TOKENS), ("batch_size", _MAX_BATCH)):
            if getattr(self, name) > most:
                raise DataError(f"{name.replace('_', ' ')} must be at most {most}, not {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise DataError(f"the learning rate must be a positive number, not {self.learning_rate}.")
        if not 0 <= self.seed < 1 << 32:
            raise DataError(f"the seed must be between 0 and {(1 << 32) - 1}, not {self.seed}.")

    def to_json(self) -> dict[str, Any]:
        """The settings that the result depends on, for JSON."""
        record = {**asdict(self), "condition": self.condition.value}
        del record["tokens_per_microbatch"], record["eval_steps"]
        return record
