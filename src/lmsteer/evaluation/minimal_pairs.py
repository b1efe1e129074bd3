"""What a model knows of grammar: of two sentences, does it find the right one likelier (BLiMP, Warstadt et al., 2020)?

A style may change what a model says, and should leave alone what it can do. This measure needs no generation and no
judge: two likelihoods a pair, each of a whole sentence after the token that texts start from. (lm-evaluation-harness
puts a space before each sentence, so that its figures are others.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from lmsteer.baselines.baseline import Baseline
from lmsteer.data.minimal_pairs import MinimalPair
from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets, run_in_halves, tokens_per_batch
from lmsteer.model.lm import LM
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.reading.sweep import Direction, sweep
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


class PairReader:
    """Reads minimal pairs under one steer, at any strength.

    The model reads the sentences once if the steer acts at the head alone: their hidden states are kept, d numbers of
    four bytes a token.

    Args:
        lm: the steer's base.
        steer: the steer.
        pairs: the pairs.

    Raises:
        DataError: a sentence has a token that the model cannot read, or is longer than its context.
        WrongBaseError: the steer was fitted on another base.
    """

    def __init__(self, lm: LM, steer: Steer, pairs: Sequence[MinimalPair]) -> None:
        lm.check_base(Mix({"s": steer}, {"s": 0.0}))
        self._lm, self._steer, self._ids = lm, steer, encode_pairs(lm, pairs)

    @torch.inference_mode()
    def right(self, strengths: Sequence[float]) -> Tensor:
        """Which pairs the model gets right at each of S strengths, (S, N).

        Raises:
            DataError: there are no strengths, or memory is short for a single sentence.
        """
        if not strengths:
            raise DataError("no strengths to read minimal pairs at.")
        if self._steer.sites:
            lines = steered_log_likelihoods(self._lm, self._ids, [self._steer], strengths)
            return _is_right(torch.stack([line[0].sum(1) for line in lines], 1))
        order, h, targets = self._read
        log_p = sweep(self._lm.head, h, targets, [Direction.of_steer(self._lm.head, self._steer)], strengths)[0]
        read = torch.stack([own.sum(1) for own in log_p.split([len(self._ids[i]) - 1 for i in order], dim=1)], 1)
        return _is_right(read[:, torch.tensor(order).argsort()])

    def accuracy(self, strength: float) -> float:
        """The share of pairs that the model gets right at a strength."""
        return float(self.right([strength]).double().mean())

    @cached_property
    def _read(self) -> tuple[list[int], Tensor, Tensor]:
        """The order in which sentences were read, the hidden states (T, d) that predict their tokens, and these."""
        order, states = list[int](), list[tuple[Tensor, Tensor]]()
        for batch in length_buckets(self._ids, tokens_per_batch(self._lm.device)):
            order += batch
            states += [own for _, own in run_in_halves(self._lm.predicting, [self._ids[i] for i in batch])]
        h, targets = zip(*states, strict=True)
        return order, torch.cat([own.float().cpu() for own in h]), torch.cat(targets).cpu()


def right_pairs(lm: LM, baseline: Baseline, pairs: Sequence[MinimalPair], strength: float) -> Tensor:
    """Which pairs (N,) the model gets right under any method, a steer among them.

    Args:
        lm: the base.
        baseline: what acts.
        pairs: the pairs.
        strength: the strength of what acts.

    Raises:
        DataError, SteerError, WrongBaseError: as ``Baseline.log_likelihoods``.
    """
    ids = encode_pairs(lm, pairs)
    return _is_right(baseline.log_likelihoods(lm, ids, [strength] * len(ids)))


def encode_pairs(lm: LM, pairs: Sequence[MinimalPair]) -> list[list[int]]:
    """The ids of the sentences after the token that texts start from: good, bad, good, bad and so on.

    Raises:
        DataError: a sentence has a token that the model cannot read, or is longer than its context.
    """
    ids = lm.encode([sentence for pair in pairs for sentence in (pair.good, pair.bad)], special=False)
    if longest := [place for place, tokens in enumerate(ids) if len(tokens) >= lm.max_length]:
        raise DataError(
            f"minimal pair {longest[0] // 2 + 1} has a sentence of {len(ids[longest[0]])} tokens; with a start token "
            f"it is longer than the model's context of {lm.max_length}."
        )
    return [[lm.start_id, *tokens] for tokens in ids]


def _is_right(log_p: Tensor) -> Tensor:
    """Which pairs (.., N) are right by the log-likelihoods (.., 2 N) of their sentences."""
    return log_p[..., ::2] > log_p[..., 1::2]
