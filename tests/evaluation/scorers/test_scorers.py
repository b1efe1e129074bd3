"""Packaged scorers: what they say, how well, and what they refuse."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmsteer
from lmsteer.data.labelled import read_labelled
from lmsteer.errors import DataError, ScorerError
from lmsteer.evaluation.measures import MEASURES
from lmsteer.evaluation.scorers import SCORERS, ScorerMetrics, Vader, checked_scores, encoder, positive_share, scorer
from lmsteer.evaluation.scorers.base import UNDECIDED, packaged_metrics
from lmsteer.evaluation.scorers.ngrams import BUCKETS, buckets, ngram_logits
from lmsteer.reading.platt import auc

CLEAR = ["A wonderful, moving film.", "A dull and tedious mess.", ""]
ODD = ["", " ", "\n\t", "😀", "a" * 5000, "word " * 2000, "\x00", "fine"]


# Scorers that were fitted, in part by others.
FITTED = sorted(SCORERS.keys() - MEASURES.keys())


@pytest.fixture(scope="module", params=FITTED)
def packaged(request):
    if request.param == "toxicity":
        pytest.importorskip("profanity_check", reason="the extra 'scorers' is not installed")
    return scorer(request.param)


@pytest.mark.model
def test_sentiment_tells_praise_from_blame():
    packaged = scorer("sentiment")
    good, bad, nothing = packaged.scores(CLEAR)
    assert good > 0.9
    assert bad < 0.1
    assert nothing == UNDECIDED


def test_toxicity_tells_abuse_from_courtesy():
    pytest.importorskip("profanity_check", reason="the extra 'scorers' is not installed")
    clean, abusive = scorer("toxicity").scores(["Thank you for the kind reply.", "you are a stupid idiot"])
    assert clean > 0.8
    assert abusive < 0.1


@pytest.mark.model
def test_a_score_is_a_probability_whatever_the_text_and_its_neighbours(packaged):
    scores = packaged.scores(ODD)
    assert all(0 <= score <= 1 for score in scores)
    assert packaged.scores(ODD[::-1])[::-1] == pytest.approx(scores, abs=1e-6)
    assert [packaged.scores([text])[0] for text in ODD] == pytest.approx(scores, abs=1e-6)
    assert packaged.scores([]) == []


@pytest.mark.model
@pytest.mark.filterwarnings("ignore:.*with different labels")  # as the data has them
def test_the_metrics_of_a_scorer_are_reproduced(packaged, shared):
    kept = packaged.metrics[0]
    texts = [text for text in read_labelled(shared / f"{kept.data}.jsonl.gz") if text.label]
    scores = torch.tensor(packaged.scores([text.text for text in texts]))
    positive = torch.tensor([text.label > 0 for text in texts])
    verdicts = scores != UNDECIDED
    right = ((scores > UNDECIDED) == positive)[verdicts]
    assert (len(texts), len(right)) == (kept.texts, kept.verdicts)
    # half a point: another processor rounds otherwise, and so may another version of scikit-learn
    assert float(right.double().mean()) == pytest.approx(kept.accuracy, abs=0.005)
    assert auc(scores, positive) == pytest.approx(kept.auc, abs=0.005)


@pytest.mark.parametrize("name", FITTED)
def test_every_packaged_scorer_is_measured_on_two_data_sets(name):
    figures = packaged_metrics(name)
    assert len({each.data for each in figures}) == 2
    assert all(0.5 < each.accuracy < 1 and 0.5 < each.auc < 1 for each in figures)


def test_a_measure_scores_in_its_own_unit():
    words = scorer("words")
    assert (words.name, words.is_probability, words.metrics) == ("words", False, ())
    assert words.fingerprint == scorer("english").fingerprint
    assert checked_scores(words, ["one two", "", "word " * 300]) == [2, 0, 300]


def test_scores_that_are_no_probabilities_are_refused_only_where_they_must_be(monkeypatch):
    words = scorer("words")
    monkeypatch.setattr(words, "is_probability", True, raising=False)
    with pytest.raises(ScorerError, match="number from 0 to 1"):
        checked_scores(words, ["one two"])
    for bad in ([math.nan], [math.inf], []):
        monkeypatch.setattr(words, "is_probability", False)
        monkeypatch.setattr(words, "scores", lambda texts, bad=bad: bad)
        with pytest.raises(ScorerError, match="must give each text a number, and"):
            checked_scores(words, ["one two"])


def test_metrics_are_printed_in_words():
    assert (
        str(ScorerMetrics("plays", 1200, 1200, 0.8456, 0.9291))
        == "right on 84.6% of its 1,200 texts of plays (AUC 0.929)"
    )
    assert "of its 900 verdicts on 1,200 texts of plays" in str(ScorerMetrics("plays", 1200, 900, 0.5, 0.5))


def test_a_share_is_among_verdicts():
    assert Vader().scores(CLEAR) == [1, 0, UNDECIDED]
    assert positive_share(Vader().scores(CLEAR)) == 0.5
    assert math.isnan(positive_share([UNDECIDED]))


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
    expected = float(weights[places].double().sum()) / 4**0.25 + 0.25
    assert ngram_logits(["one two one", ""], weights, 0.25).tolist() == pytest.approx([expected, 0.25])


def test_the_package_itself_needs_no_scikit_learn():
    sources = list(Path(lmsteer.__file__).parent.rglob("*.py"))
    assert len(sources) > 50
    assert not [file for file in sources if "import sklearn" in (code := file.read_text()) or "from sklearn" in code]


def test_unknown_and_uninstalled_scorers_are_refused(monkeypatch):
    with pytest.raises(DataError, match="unknown scorer 'magic': there are sentiment"):
        scorer("magic")
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(DataError, match=r"lmsteer\[scorers\]"):
        scorer("toxicity")


@pytest.mark.model
def test_the_encoder_goes_to_the_accelerator(monkeypatch):
    """The meta device stands in for one."""
    monkeypatch.setattr(encoder, "accelerator", lambda: torch.device("meta"))
    assert encoder.Encoder()._model.device.type == "meta"
    assert encoder.Encoder(torch.device("cpu")).means(["a text"], (0, 1)).shape == (1, 2, 384)
