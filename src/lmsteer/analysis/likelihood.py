"""The likelihood of texts as a function of strength: one pass of the model, whatever the number of strengths.

Published code runs a copy of the text through the model for every strength; as ``z(s) = z₀ + s z₁`` (LM-Steer, Han et
al., ACL 2024, section 5), the hidden states of one pass serve them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.batches import by_length
from lmsteer.errors import DataError
from lmsteer.lm import LM
from lmsteer.progress import Progress, no_progress
from lmsteer.steers.mix import Mix
from lmsteer.steers.steer import Steer
from lmsteer.sweep import Direction, sweep


@dataclass(frozen=True)
class Likelihood:
    """A text's log-likelihood, token by token, at each strength.

    Attributes:
        ids: the text's tokens (T,); the first is predicted from nothing and has no likelihood.
        strengths: (S,).
        log_p: log-likelihood (S, T - 1) of the tokens after the first.
    """

    ids: list[int]
    strengths: tuple[float, ...]
    log_p: Tensor

    @property
    def total(self) -> Tensor:
        """Log-likelihood (S,) of the whole text at each strength."""
        return self.log_p.sum(1)

    def evidence(self, low: int = 0, high: int = -1) -> Tensor:
        """Log-likelihood (T - 1,) at one of the strengths less that at another, a token: what speaks for ``high``."""
        return self.log_p[high] - self.log_p[low]


@torch.inference_mode()
def likelihoods(
    lm: LM, texts: Sequence[str], steer: Steer, strengths: Sequence[float], *, progress: Progress = no_progress
) -> list[Likelihood]:
    """Read texts at several strengths of a steer, its end part taken in.

    Args:
        lm: the steer's base.
        texts: to read; what the tokenizer makes of them, no end of text added.
        steer: of any form.
        strengths: of the steer.
        progress: what to tell of the work.

    Raises:
        DataError: a text longer than the model's context, or no strengths.
        SteerError: a strength that is not a finite number.
        WrongBaseError: a steer of another base.
    """
    steer.card.check_base(lm.name, lm.fingerprint, lm.tokenizer_fingerprint)
    if not strengths:
        raise DataError("no strengths to read texts at.")
    Mix({"s": steer}, {"s": strengths})  # refuses what is not a finite number
    ids = lm.encode(texts)
    _check_lengths(lm, ids)
    direction = Direction.of_steer(lm.head, steer.reader())
    found: dict[int, Tensor] = {i: torch.zeros(len(strengths), 0) for i in range(len(ids))}
    long_enough = [i for i in range(len(ids)) if len(ids[i]) > 1]
    with progress("reading texts", len(long_enough), 0) as step:
        for batch in by_length([ids[i] for i in long_enough]):
            chosen = [long_enough[i] for i in batch]
            h, y = lm.predicting([ids[i] for i in chosen])
            lines = sweep(lm.head, h, y, [direction], list(strengths))[0]
            found |= dict(zip(chosen, lines.split([len(ids[i]) - 1 for i in chosen], dim=1), strict=True))
            step(len(chosen), "")
    return [Likelihood(ids[i], tuple(map(float, strengths)), found[i]) for i in range(len(ids))]


def _check_lengths(lm: LM, ids: Sequence[Sequence[int]]) -> None:
    for number, text in enumerate(ids, 1):
        if len(text) > lm.max_length:
            raise DataError(
                f"text {number} has {len(text)} tokens, more than the model's context of {lm.max_length}; cut it up."
            )
