"""The log-likelihoods of tokens under steers with windows and limits, token by token, as they are defined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmsteer.generation.limits import RowLimits, limited
from lmsteer.model.lm import LM
from lmsteer.serving.vllm.asked import Asked
from lmsteer.steer.mix import Mix
from lmsteer.steer.strength import size_of, window_of


def mix_at(asked: Asked, token: int) -> Mix:
    """The steers that a request asks for, with the strengths that act at a token of its continuation."""
    shares = {name: window_of(strength).share(token) for name, strength in asked.strengths.items()}
    return Mix(asked.steers, {name: shares[name] * size_of(asked.strengths[name]) for name in shares})


@torch.inference_mode()
def defined_log_p(lm: LM, prompt: Sequence[int], ids: Sequence[int], asked: Asked) -> Tensor:
    """Log-likelihoods (T, V) of all tokens at each of some that follow a prompt."""
    states = lm.before_head(input_ids=torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
    limits = RowLimits.of([asked.limits], [()], 0, states.device)
    lines = []
    for token, h in enumerate(states):
        mix = mix_at(asked, token)
        z0, z1 = lm.head.raw(h[None]).float(), mix.logit_shift(h[None], lm.head.weight)
        lines.append(limited(z0, z1, limits, lm.head.post).logits[0])
    return torch.stack(lines).log_softmax(-1)
