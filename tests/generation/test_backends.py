"""The backend of a model is found by trying it; one that keeps nothing is exact for every model."""

from __future__ import annotations

import pytest
import torch

from lmsteer.generation import backends
from lmsteer.generation.backends import backend_for
from lmsteer.generation.batch import Batch
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.generation.single import RereadRow, SingleRow
from lmsteer.reading.after_prompt import AfterPrompt
from lmsteer.util.compat import CACHE
from tiny import random_steer, tiny_lm


@pytest.mark.parametrize(("family", "kind", "rows"), [("llama", Batch, None), ("mamba", SingleRow, 1)])
def test_the_backend_suits_the_model(make_lm, family, kind, rows):
    make, most = backend_for(make_lm(family))
    assert (type(make()), most) == (kind, rows)


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_a_model_whose_cache_is_of_no_use_is_read_again_and_writes_the_same(family, monkeypatch):
    lm, other = tiny_lm(family), tiny_lm(family)
    steers, strengths = {"style": random_steer(lm)}, [{"style": 2.0}]
    config = GenerationConfig(2, 6, score=True)
    expected = [*generate(lm, ["The cat", "x"], steers, strengths, config)]
    monkeypatch.setattr(backends, "_has_logits_of_texts", lambda *_: False)
    with pytest.warns(RuntimeWarning, match="reads the whole text again for each token"):
        make, most = backend_for(other)
    assert (type(make()), most) == (RereadRow, 1)
    found = [*generate(other, ["The cat", "x"], steers, strengths, config)]
    assert [(each.text, each.tokens) for each in found] == [(each.text, each.tokens) for each in expected]
    # float32, with a cache and without
    assert [each.log_p for each in found] == pytest.approx([each.log_p for each in expected], abs=1e-4)
    states = AfterPrompt(other, [1, 40, 41]).states([[50, 51], [60]])
    whole, _ = other.predicting([[1, 40, 41, 50, 51]])
    torch.testing.assert_close(states[0], whole[2:], rtol=1e-4, atol=1e-5)


def test_a_model_that_takes_no_cache_is_no_error(monkeypatch):
    lm = tiny_lm("llama")
    forward = lm.model.forward

    def without(*arguments, **options):
        if options.get(CACHE) is not None:
            raise TypeError(f"forward() got an unexpected keyword argument {CACHE!r}")
        return forward(*arguments, **options)

    monkeypatch.setattr(lm.model, "forward", without)
    with pytest.warns(RuntimeWarning, match="LlamaForCausalLM gives other logits from its cache"):
        assert backend_for(lm)[1] == 1
