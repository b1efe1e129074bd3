"""Pairs are judged by the likelihood of whole sentences: the same by every way of reading them."""

from __future__ import annotations

import gzip
import json
import random

import pytest
import torch

from conftest import SHARED
from lmsteer.baselines.steer import steer_baseline
from lmsteer.data.minimal_pairs import MinimalPair, read_minimal_pairs
from lmsteer.errors import DataError, WrongBaseError
from lmsteer.evaluation.minimal_pairs import PairReader, encode_pairs, right_pairs
from lmsteer.reading.continuations import score_continuations
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix
from tiny import inner_steer, random_steer

_DRAWN = random.Random(0)
# Of the same length, or the shorter one would always be likelier.
PAIRS = [MinimalPair(*("".join(_DRAWN.choices("abcdefgh ", k=n)) for _ in range(2))) for n in range(4, 24)]
GRAMMAR = [
    MinimalPair("The cats sleep.", "The cats sleeps."),
    MinimalPair("She has eaten the apple.", "She has ate the apple."),
    MinimalPair("Who did you see yesterday?", "Who did you saw yesterday?"),
    MinimalPair("Nobody has ever been there.", "Somebody has ever been there."),
]


def plainly(lm, pairs, steer, strength):
    """Which pairs the steered model gets right, a sentence at a time."""
    scores = []
    for ids in encode_pairs(lm, pairs):
        with lm.steered(Mix({"s": steer}, {"s": strength})), torch.no_grad():
            log_p = lm.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        scores.append(float(log_p[range(len(ids) - 1), ids[1:]].sum()))
    return [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]


@pytest.mark.parametrize("sites", [(), ("layers.0",)])
def test_all_ways_of_reading_find_the_same(llama, sites):
    steer = inner_steer(llama, sites, head=True) if sites else random_steer(llama)
    strengths = [-3.0, 0.0, 3.0]
    expected = [plainly(llama, PAIRS, steer, strength) for strength in strengths]
    reader = PairReader(llama, steer, PAIRS)
    assert reader.right(strengths).tolist() == expected
    for strength, right in zip(strengths, expected, strict=True):
        assert reader.accuracy(strength) == pytest.approx(sum(right) / len(PAIRS))
        assert right_pairs(llama, steer_baseline(steer), PAIRS, strength).tolist() == right


def test_a_strength_changes_which_are_right(llama):
    reader = PairReader(llama, random_steer(llama), PAIRS)
    assert len({tuple(right) for right in reader.right([-8.0, 0.0, 8.0]).tolist()}) > 1


def test_the_model_reads_once_for_all_strengths_at_the_head(llama):
    reader, passes = PairReader(llama, random_steer(llama), PAIRS), []
    with llama.model.register_forward_hook(lambda *_: passes.append(1)):
        reader.right([1.0])
        once = len(passes)
        reader.right([2.0, 3.0])
    assert len(passes) == once


def test_what_cannot_be_read_is_refused(llama):
    long = [*PAIRS, MinimalPair("a" * llama.max_length, "b")]
    for read in (
        lambda: PairReader(llama, random_steer(llama), long),
        lambda: right_pairs(llama, steer_baseline(random_steer(llama)), long, 1.0),
    ):
        with pytest.raises(DataError, match="minimal pair 21 has a sentence of"):
            read()
    with pytest.raises(DataError, match="no strengths"):
        PairReader(llama, random_steer(llama), PAIRS).right([])


def test_a_steer_of_another_model_is_refused(llama, make_lm):
    with pytest.raises(WrongBaseError):
        PairReader(llama, random_steer(make_lm("gpt2")), PAIRS)


@pytest.mark.model
def test_the_default_model_knows_some_grammar(smollm2):
    reader = PairReader(smollm2, find_steer("sentiment"), GRAMMAR)
    assert reader.accuracy(0.0) == 1.0
    pairs = [([ids[0]], ids[1:]) for ids in encode_pairs(smollm2, GRAMMAR)]
    scores = [score.log_p for score in score_continuations(smollm2, pairs, Mix({}, {}))]
    assert all(good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True))


@pytest.mark.model
@pytest.mark.skipif(not (SHARED / "blimp_60_of_each.jsonl.gz").exists(), reason="the data of BLiMP are not here")
def test_blimp_is_read_and_mostly_right(smollm2, tmp_path):
    pairs = read_minimal_pairs(SHARED / "blimp_60_of_each.jsonl.gz")
    with gzip.open(SHARED / "blimp_60_of_each.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert len(pairs) == sum(bool(json.loads(line)) for line in lines)
    assert len({pair.phenomenon for pair in pairs}) > 10
    assert PairReader(smollm2, find_steer("sentiment"), pairs[::80]).accuracy(0.0) > 0.7  # .5 by chance
