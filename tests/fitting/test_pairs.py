"""Pairs: what both texts have in common cancels, both are held out or neither, and a steer is fitted on them."""

from __future__ import annotations

import random

import pytest
import torch

from lmsteer.data.chats import Chat
from lmsteer.data.labelled import LabelledText
from lmsteer.fitting.activation_cache import HiddenStates, open_activation_cache
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.reading import splits
from lmsteer.reading.analyse import analyse
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable
from lmsteer.reading.platt import fit_platt
from lmsteer.reading.rows import LabelledRows, from_int64_pair
from tiny import chat_lm, styled

ASKED = ["Well? ", "And you? ", "What is it? "]


def pairs(count: int, seed: int = 0, chats: bool = False) -> list[LabelledText]:
    """Pairs of texts in the letters of both ends, after one of a few prompts."""
    texts, rng = styled(2 * count, seed), random.Random(seed)
    asked = [rng.choice(ASKED) for _ in range(count)]
    prompts = [Chat.of_user(prompt) if chats else prompt for prompt in asked]
    both = zip(texts[:count], texts[count:], prompts, strict=True)
    return [
        LabelledText(each.text, each.label, prompt, f"pair {i}")
        for i, (chosen, rejected, prompt) in enumerate(both)
        for each in (chosen, rejected)
    ]


def gathered(lm, texts) -> Statistics:
    return gather_statistics(HiddenStates(lm, encode_labelled(lm, texts)), texts, Statistics.empty(lm))


@pytest.fixture(scope="module")
def lm():
    return chat_lm()


def test_what_both_texts_of_a_pair_have_in_common_cancels(lm):
    same = [LabelledText(text.text, label, text.prompt, text.group) for text in pairs(20)[::2] for label in (1.0, -1.0)]
    found = gathered(lm, same)
    assert found.sums["D"].norm() > 1
    assert found.counts.label == 0.0
    for name in ("G", "g_end"):
        assert found.sums[name].norm() < 1e-5 * found.sums["D"].norm()
    # A beginning that is shared cancels, too: it is read alike in both texts.
    longer = [LabelledText("shared " + text.text, text.label, text.prompt, text.group) for text in pairs(20)]
    moved = [LabelledText(text.text, text.label, f"{text.before}shared ", text.group) for text in pairs(20)]
    with_it, without = gathered(lm, longer), gathered(lm, moved)
    torch.testing.assert_close(with_it.sums["G"], without.sums["G"], rtol=1e-4, atol=1e-3)
    assert (with_it.sums["D"] - without.sums["D"]).norm() > 1


@pytest.mark.parametrize("limit", [40, 100, 1000])
def test_both_texts_of_a_pair_are_held_out_or_neither(lm, monkeypatch, limit):
    monkeypatch.setattr(splits, "HELD_OUT_ROWS", limit)
    monkeypatch.setattr(splits, "SAMPLE_ROWS", limit)
    texts = pairs(60)
    found = gathered(lm, texts)
    group = {text.digest: text.group for text in texts}
    kept = [
        {from_int64_pair(*each) for each in rows.digest.tolist()}
        for rows in (found.held_out, LabelledRows.join(found.sample))
    ]
    for digests in kept:
        groups = [group[digest] for digest in digests]
        assert all(groups.count(each) == 2 for each in groups)
    assert kept[0] == {texts[i].digest for i in splits.held_out_of(texts, encode_labelled(lm, texts))}
    in_parts = gathered(lm, texts[::3]).merge(gathered(lm, texts[1::3])).merge(gathered(lm, texts[2::3]))
    assert {from_int64_pair(*each) for each in in_parts.held_out.digest.tolist()} == kept[0]
    first, second = splits.halves(texts)
    assert not {text.group for text in first} & {text.group for text in second}


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
@pytest.mark.parametrize("chats", [False, True])
def test_a_steer_is_fitted_on_pairs(lm, tmp_path, monkeypatch, method, chats):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    config = FitConfig(method, rank=4, gradient=GradientConfig(steps=20, learning_rate=0.1, epsilon=0.1))
    done = fit(lm, pairs(120, chats=chats), name="letters", out=tmp_path / "s", config=config)
    assert done.held_out.log_likelihood_gain > 0.05
    assert done.held_out.sign_accuracy > 0.9
    assert done.held_out.texts % 2 == 0
    if method == "closed-form":  # its probabilities are those of the evidence that ``analyse`` finds
        texts, ids = encode_readable(lm, pairs(120, chats=chats))
        held_out = [texts[i] for i in splits.held_out_of(texts, ids)]
        prompts = [text.before for text in held_out]
        found = analyse(lm, [text.text for text in held_out], {"s": done.steer}, prompts=prompts, spans=0)
        evidence = torch.tensor([each.dimensions["s"].position.score for each in found], dtype=torch.float64)
        expected = fit_platt(evidence, torch.tensor([text.label > 0 for text in held_out]))
        assert done.held_out.slope == pytest.approx(expected.slope, rel=1e-2)  # float32 sums of other batches
        assert done.held_out.offset == pytest.approx(expected.offset, abs=1e-2)


def test_the_cache_of_activations_knows_where_texts_begin(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    texts = pairs(20)
    whole = [LabelledText(f"{text.before}{text.text}", text.label) for text in texts]
    folders = {open_activation_cache(lm, encode_labelled(lm, some)) for some in (texts, whole)}
    assert len(folders) == 2
    for _ in range(2):
        states = HiddenStates(lm, encode_labelled(lm, texts), open_activation_cache(lm, encode_labelled(lm, texts)))
        fresh = HiddenStates(lm, encode_labelled(lm, texts))
        for number in range(len(states.batches)):
            kept, made = states.rows(number, texts), fresh.rows(number, texts)
            assert all(torch.equal(value, vars(made)[name]) for name, value in vars(kept).items())
