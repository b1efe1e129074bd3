"""Methods that put tokens before a text leave less of the model's context, and say so."""

from __future__ import annotations

import pytest

from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.methods import fit_baseline
from lmsteer.errors import DataError, ModelError
from lmsteer.model.lm import LM
from tiny import styled, tiny_model, tiny_tokenizer

CONTEXT = 14  # fewer tokens than the texts have
ENDS = ("be bad", "be good")


@pytest.fixture(scope="module")
def small():
    return LM(tiny_model("gpt2", n_positions=CONTEXT), tiny_tokenizer(), "small")


@pytest.mark.parametrize(
    ("method", "taken"), [("lora", 0), ("prompt-tuning", 10), ("prefix-tuning", 10), ("prompting", 8)]
)
def test_texts_are_trained_on_and_read_within_the_context(small, method, taken):
    if taken == 10:
        pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    texts = styled(20)
    baseline = fit_baseline(small, method, texts, budget=TrainingBudget(steps=1), instructions=ENDS)
    ids = small.encode([texts[0].text])[0]
    fits = ids[: CONTEXT - taken]
    assert baseline.log_likelihoods(small, [fits], [1.0]).isfinite().all()
    after = f" after {taken} of the method" if taken else ""
    message = rf"text 2 has {len(fits) + 1} tokens{after}, more than the model's context of {CONTEXT}\."
    with pytest.raises(DataError, match=message):
        baseline.log_likelihoods(small, [fits, ids[: len(fits) + 1]], [1.0, 1.0])


def test_a_context_that_a_method_fills_is_refused():
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    lm = LM(tiny_model("gpt2", n_positions=11), tiny_tokenizer(), "full")
    with pytest.raises(DataError, match=r"a method of 10 tokens leaves no room for texts: .* is 11\."):
        fit_baseline(lm, "prompt-tuning", styled(20), budget=TrainingBudget(steps=1))


def test_a_model_that_peft_does_not_know_is_refused_in_words(small, monkeypatch):
    peft = pytest.importorskip("peft", reason="the extra 'methods' is not installed")

    def unknown(*_, **__):
        raise ValueError("Please specify `num_attention_heads` in `peft_config`")

    monkeypatch.setattr(peft, "get_peft_model", unknown)
    with pytest.raises(ModelError, match="PEFT cannot put a prompt before GPT2LMHeadModel: Please specify"):
        fit_baseline(small, "prompt-tuning", styled(20), budget=TrainingBudget(steps=1))
