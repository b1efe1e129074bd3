"""Text of the unsteered model is its own and the seed's alone."""

from __future__ import annotations

import torch

from lmsteer.generation.unconditional import sample_unconditional
from lmsteer.steer.mix import Mix
from tiny import random_steer


def test_samples_depend_on_the_model_and_the_seed_alone(llama):
    h, y = sample_unconditional(llama, 5, 7, 0)
    assert h.shape == (len(y), 32)
    assert len(y) <= 35
    with llama.steered(Mix({"s": random_steer(llama)}, {"s": 4.0})):
        again = sample_unconditional(llama, 5, 7, 0)
    assert torch.equal(h, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(y, sample_unconditional(llama, 5, 7, 1)[1])
