"""Texts after one prompt, which is read once."""

from __future__ import annotations

import pytest
import torch

from lmsteer.reading.after_prompt import AfterPrompt


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mamba"])
def test_states_after_a_prompt_are_those_of_the_whole(make_lm, family):
    lm, prompt, texts = make_lm(family), [1, 40, 41, 42], [[50, 51, 52], [60], [70, 71]]
    for text, states in zip(texts, AfterPrompt(lm, prompt).states(texts), strict=True):
        expected, _ = lm.predicting([[*prompt, *text]])
        torch.testing.assert_close(states, expected[len(prompt) - 1 :].float(), rtol=1e-4, atol=1e-5)
