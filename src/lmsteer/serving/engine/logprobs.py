"""The log-likelihoods of tokens that requests ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor


@dataclass(frozen=True)
class TokenLogprob:
    """A token, drawn or of the prompt, with its log-likelihood under the steers.

    Attributes:
        token: its id.
        log_p: its log-likelihood.
        top: log-likelihoods of the likeliest tokens, by id.
    """

    token: int
    log_p: float
    top: Mapping[int, float]

    def likeliest(self, top: int) -> TokenLogprob:
        """The same with the ``top`` likeliest tokens alone."""
        return replace(self, top=dict(islice(self.top.items(), top)))


def token_logprobs(log_p: Tensor, tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """The records of tokens (N,) that have log-likelihoods (N, V), with the ``top`` likeliest tokens each."""
    values, ids = log_p.topk(min(top, log_p.shape[-1]))
    own = log_p[range(len(tokens)), tokens].tolist()
    # Tokens that must not be drawn have none.
    tops = [
        {token: value for token, value in zip(*pair, strict=True) if value > -math.inf}
        for pair in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return [TokenLogprob(*each) for each in zip(tokens, own, tops, strict=True)]
