"""Scorers: what they say, how well, and what they refuse."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

from lmsteer.errors import DataError, ModelError
from lmsteer.evaluation.scorers import SCORERS, Vader, accuracy_of, positive_share, scorer
from lmsteer.evaluation.scorers.ngrams import BUCKETS, buckets, ngram_logits
from lmsteer.fitting.data import read_labelled
from tiny import tiny_tokenizer

CLEAR = ["A wonderful, moving film.", "A dull and tedious mess.", ""]


@pytest.mark.model
def test_sentiment_tells_praise_from_blame():
    judge = scorer("sentiment")
    good, bad, nothing = judge.scores(CLEAR)
    assert good > 0.9
    assert bad < 0.1
    assert 0 < nothing < 1
    assert judge.scores(CLEAR[::-1]) == pytest.approx([nothing, bad, good], abs=1e-6)  # whatever the batch
    assert judge.scores([]) == []


def test_toxicity_tells_abuse_from_courtesy():
    judge = scorer("toxicity")
    clean, abusive = judge.scores(["Thank you for the kind reply.", "you are a stupid idiot"])
    assert clean > 0.8
    assert abusive < 0.1
    assert judge.scores([]) == []


@pytest.mark.model
@pytest.mark.parametrize("name", SCORERS)
def test_figures_are_those_of_real_texts(name, shared):
    figures = json.loads((files("lmsteer") / "assets" / "scorers" / "figures.json").read_text(encoding="utf-8"))
    data, kept = next(iter(figures[name].items()))
    texts = [text for text in read_labelled(shared / f"{data}.jsonl.gz") if text.label][:400]
    scores = scorer(name).scores([text.text for text in texts])
    verdicts = [(score > 0.5) == (text.label > 0) for score, text in zip(scores, texts, strict=True) if score != 0.5]
    # four hundred of the texts: two standard errors
    assert sum(verdicts) / len(verdicts) == pytest.approx(kept["accuracy"], abs=0.045)
    assert f"{kept['accuracy']:.1%}" in accuracy_of(name)


def test_what_nobody_has_measured_has_no_figures():
    assert accuracy_of("hf:anything") == ""


def test_a_share_is_among_verdicts():
    assert positive_share(Vader().scores(CLEAR)) == 0.5


@given(st.text(max_size=60))
def test_ngrams_are_counted_once_whatever_their_case(text):
    found = buckets(text)
    assert found == sorted(set(found))
    assert all(0 <= place < BUCKETS for place in found)
    if text.upper().casefold() == text.casefold():
        assert buckets(text.upper()) == found
    assert set(found) <= set(buckets(f"{text} {text}"))


def test_ngram_weights_add_up():
    weights = torch.randn(BUCKETS, generator=torch.Generator().manual_seed(0))
    places = buckets("one two one")
    assert len(places) == 4  # one, two, one two, two one
    expected = float(weights[places].double().sum()) / 2 + 0.25
    assert ngram_logits(["one two one", ""], weights, 0.25).tolist() == pytest.approx([expected, 0.25])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier") / "three"
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=259, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, id2label={0: "bad", 1: "neutral", 2: "good"},
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_any_classifier_will_do(classifier):
    texts = ["abc", "a longer one, which exceeds the context of sixteen tokens", ""]
    by_class = [scorer(f"hf:{classifier}={name}").scores(texts) for name in ("bad", "neutral", "good")]
    assert [sum(scores) for scores in zip(*by_class, strict=True)] == pytest.approx([1, 1, 1])
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    ids = torch.tensor([tiny_tokenizer()("abc")["input_ids"]])
    with torch.no_grad():
        assert by_class[2][0] == pytest.approx(float(model(ids).logits.softmax(-1)[0, 2]), abs=1e-5)
    assert scorer(f"hf:{classifier}=good").scores([]) == []


def test_what_is_no_scorer_is_refused(classifier, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="unknown scorer 'magic': there are sentiment"):
        scorer("magic")
    for name in (f"hf:{classifier}", f"hf:{classifier}=great"):
        with pytest.raises(DataError, match="one of bad, neutral, good"):
            scorer(name)
    with pytest.raises(ModelError, match="cannot load the classifier"):
        scorer(f"hf:{tmp_path}")
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(DataError, match=r"lmsteer\[scorers\]"):
        scorer("toxicity")
