"""The protocol of an evaluation: how many continuations are generated for each prompt, how long, and from which seed.

The defaults are those of the published protocol (Liu et al., DExperts, 2021): 25 continuations of 20 tokens, nucleus
sampling with p = 0.9. This module does not import torch, so that the command line can show its defaults quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmsteer.generation.config import NO_LIMITS, GenerationConfig, Limits, SamplingConfig

NUM_SAMPLES = 25
MAX_NEW_TOKENS = 20
TOP_P = 0.9
# Continuations of each prompt and setting in ``interference``.
INTERFERENCE_SAMPLES = 4
# Continuations of each prompt and strength in ``compare``.
COMPARISON_SAMPLES = 5


@dataclass(frozen=True)
class Protocol:
    """How continuations are generated.

    Attributes:
        num_samples: number of continuations of each prompt.
        max_new_tokens: maximum number of tokens of a continuation.
        top_p: probability mass of nucleus sampling.
        seed: seed of the random numbers, which are the same in every condition.
        limits: how far steers may move each token, in every condition.
    """

    num_samples: int = NUM_SAMPLES
    max_new_tokens: int = MAX_NEW_TOKENS
    top_p: float = TOP_P
    seed: int = 0
    limits: Limits = NO_LIMITS

    def generation_config(self) -> GenerationConfig:
        """The same for ``generate``.

        Raises:
            DataError: a value is out of range.
        """
        sampling = SamplingConfig(self.top_p)
        return GenerationConfig(self.num_samples, self.max_new_tokens, sampling, self.seed, limits=self.limits)


# How ``calibrate`` writes at each strength that it tries. Text loops late: under one steer, 1 of 120 continuations of
# 20 tokens repeated a tenth of its runs of three words, and 23 of 120 of 40 tokens.
CALIBRATION = Protocol(num_samples=1, max_new_tokens=40)
