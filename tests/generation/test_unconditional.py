"""Text of the unsteered model is its own and the seed's alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lmsteer.generation import unconditional
from lmsteer.generation.unconditional import FISHER_TEXTS, own_texts, sample_unconditional
from lmsteer.generation.writing import NotFiniteError
from lmsteer.steer.mix import Mix
from tiny import inner_steer, random_steer, tiny_lm


def test_samples_depend_on_the_model_and_the_seed_alone(llama):
    h, y = sample_unconditional(llama, 5, 7, 0)
    assert h.shape == (len(y), 32)
    assert len(y) <= 35
    with llama.steered(Mix({"s": random_steer(llama)}, {"s": 4.0})):
        again = sample_unconditional(llama, 5, 7, 0)
    assert torch.equal(h, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(y, sample_unconditional(llama, 5, 7, 1)[1])


@pytest.mark.parametrize(("hidden_size", "blocks"), [(32, 1), (576, 1), (1200, 3)])
def test_wider_models_are_measured_on_more_text(monkeypatch, tmp_path, hidden_size, blocks):
    """Else C and F would be singular for wide models."""
    sampled = []

    def sample(lm, texts, tokens, seed):
        sampled.append((texts, seed))
        return torch.full((2, hidden_size), float(seed)), torch.zeros(2, dtype=torch.int64)

    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))
    monkeypatch.setattr(unconditional, "sample_unconditional", sample)
    head = SimpleNamespace(residuals=lambda h, targets: (h + 1, targets), device=torch.device("cpu"))
    lm = SimpleNamespace(
        max_length=99, hidden_size=hidden_size, head=head, fingerprint="f", tokenizer_fingerprint="t" * 8
    )
    factors = unconditional.fisher_factors(lm)
    assert sampled == [(FISHER_TEXTS, seed) for seed in range(blocks)]
    assert FISHER_TEXTS * blocks >= hidden_size / 3
    assert factors.c.unique().tolist() == [pytest.approx(sum(seed**2 for seed in range(blocks)) / blocks)]
    assert factors.f.unique().tolist() == [pytest.approx(sum((seed + 1) ** 2 for seed in range(blocks)) / blocks)]
    assert unconditional.fisher_factors(lm).mean.equal(factors.mean)  # from the cache
    assert len(sampled) == blocks


def test_a_damaged_model_is_refused():
    lm = tiny_lm("llama")
    lm.model.get_input_embeddings().weight.data[lm.start_id] = torch.nan
    with pytest.raises(NotFiniteError, match="its weights may be damaged"):
        sample_unconditional(lm, 2, 3, seed=0)


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_own_texts_are_what_is_sampled_whatever_steers_act_around(make_lm, family):
    lm = make_lm(family)
    _, drawn = sample_unconditional(lm, 4, 6, 0)
    texts = own_texts(lm, 4, 6, 0)
    assert all(text[0] == lm.start_id for text in texts)
    assert sorted(token for text in texts for token in text[1:]) == sorted(drawn.tolist())
    assert own_texts(lm, 2, 6, 0) == texts[:2]
    with lm.steered(Mix({"s": inner_steer(lm, ["layers.0"], head=True)}, {"s": 4.0})):
        assert own_texts(lm, 4, 6, 0) == texts
