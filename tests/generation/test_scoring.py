"""Finished continuations are scored by the unsteered model, after whatever stood before them."""

from __future__ import annotations

import pytest
import torch

from lmsteer.generation.prefill import read_prompts
from lmsteer.generation.scoring import unsteered_log_likelihoods
from lmsteer.model.kv_cache import Start
from lmsteer.reading.encoded_text import EncodedText
from lmsteer.reading.likelihood import log_likelihoods
from tiny import FAMILIES

PROMPTS, TEXTS = ["The cat", "A longer prompt, which is"], [" sat down", ""]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_log_likelihoods_after_the_prompt(make_lm, family):
    lm = make_lm(family)
    prompts, texts = lm.encode(PROMPTS), lm.encode(TEXTS)
    whole = [EncodedText.of([*p, *t], len(p), is_ended=False) for p, t in zip(prompts, texts, strict=True)]
    expected = [float(own.sum()) for own in log_likelihoods(lm, whole)]
    found = unsteered_log_likelihoods(lm, [Start(ids) for ids in prompts], texts)
    assert found == pytest.approx(expected, rel=1e-5)  # float32
    assert found[1] == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_kept_tokens_stand_before_the_prompt(make_lm, family):
    lm = make_lm(family)
    before, (prompt, text) = lm.encode(["Once upon a time, "])[0], lm.encode(["the cat", " sat down"])
    *_, last = read_prompts(lm, [Start([*before, 0])])
    kept = Start(prompt, last.states[0], len(before))
    expected = unsteered_log_likelihoods(lm, [Start([*before, *prompt]), Start(prompt)], [text, text])
    found = unsteered_log_likelihoods(lm, [kept, Start(prompt)], [text, text])
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-3, atol=1e-3)  # float32, a cache
    assert abs(found[0] - found[1]) > 1e-2
