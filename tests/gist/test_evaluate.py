"""Evaluation of gists: metrics are those of the outputs that were generated under them."""

from __future__ import annotations

import pytest

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError
from lmsteer.gist import evaluate as module
from lmsteer.gist.config import GistCondition
from lmsteer.gist.evaluate import _normalized, evaluate

pytest.importorskip("rouge_score", reason="the extra 'gist' is not installed")
INSTRUCTIONS = [Instruction(letter * 8, "", letter) for letter in "abab"]


@pytest.fixture
def adapter(fitted):
    return fitted.adapter


def test_known_outputs_are_generated_under_the_gist_and_not_without(llama, adapter):
    found = evaluate(llama, adapter, INSTRUCTIONS, max_new_tokens=4)
    assert (found.examples, found.exact, found.rouge_l) == (4, 1.0, 1.0)
    nothing = evaluate(llama, adapter, INSTRUCTIONS, condition=GistCondition.NEGATIVE, max_new_tokens=4)
    assert nothing.exact <= 0.5
    assert found.loss < 0.25 < nothing.loss  # nats a token
    whole = evaluate(llama, adapter, INSTRUCTIONS, condition=GistCondition.POSITIVE, max_new_tokens=4)
    prompt = len("Instruction: aaaaaaaa\n")
    assert whole.prompt_tokens == prompt
    assert whole.cache_bytes * 2 == found.cache_bytes * (prompt + 2)  # the gist tokens are in it
    assert found.to_json()["exact"] == 1.0
    one_by_one = evaluate(llama, adapter, INSTRUCTIONS, max_new_tokens=4, batch_size=1)
    assert (one_by_one.exact, one_by_one.rouge_l) == (1.0, 1.0)


def test_outputs_are_compared_without_case_punctuation_and_white_space():
    assert _normalized("  It's\nTWO.") == _normalized("it s two")
    assert _normalized("two") != _normalized("three")
    assert _normalized("-12") != _normalized("12")
    assert _normalized("3.5") != _normalized("35")
    assert _normalized("yes -") == _normalized("yes")


def test_evaluations_that_are_impossible_are_refused(llama, make_lm, adapter_of, adapter, monkeypatch):
    gpt2 = make_lm("gpt2")
    with pytest.raises(DataError, match="no instruction fits"):
        evaluate(gpt2, adapter_of(gpt2), [Instruction("a" * 100, "", "b")])
    with pytest.raises(DataError, match="batch size"):
        evaluate(llama, adapter, INSTRUCTIONS, batch_size=0)
    monkeypatch.setattr(module, "_rouge", lambda: (_ for _ in ()).throw(DataError("ROUGE-L needs rouge-score")))
    with pytest.raises(DataError, match="rouge-score"):
        evaluate(llama, adapter, INSTRUCTIONS)
