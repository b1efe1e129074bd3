"""Transfer is exact to the same model with permuted dimensions, and refuses what cannot be transferred."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, ModelError, SteerError, WrongBaseError
from lmsteer.fitting.fit import fit
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.vocabulary import token_texts
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.steer.algebra import merge, overlaps
from lmsteer.steer.mix import Mix
from lmsteer.transferring import alignment as pairs_module
from lmsteer.transferring import maps
from lmsteer.transferring import shared_vocabulary as shared_module
from lmsteer.transferring import transfer as module
from lmsteer.transferring.alignment import align_states
from lmsteer.transferring.maps import WORD_MAPS
from lmsteer.transferring.shared_vocabulary import find_shared_vocabulary
from lmsteer.transferring.transfer import transfer
from tiny import random_steer, styled, tiny_model, tiny_tokenizer

TEXTS = [text.text for text in styled(120)]
ORDER = torch.randperm(32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def disguised():
    """The tiny Llama with its hidden dimensions in another order: the same model to all who look at its logits."""
    model = tiny_model("llama")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("embed_tokens.weight", "lm_head.weight")) or "norm" in name:
                parameter.copy_(parameter[..., ORDER])
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.copy_(parameter[ORDER])
            else:
                parameter.copy_(parameter[:, ORDER])
    return LM(model, tiny_tokenizer(), "disguised")


@pytest.fixture(scope="module")
def by_pairs(make_lm):
    """Another family, whose tokenizer makes one token of some pairs of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("l", "m"), ("s", "t"), ("Ġ", "a")]
    vocabulary = ["<pad>", "<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    # as many as the tiny models have rows
    kept = [token for token in vocabulary if token not in '!"#$']
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(kept)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    return replace(make_lm("qwen2"), tokenizer=fast, name="by pairs")


def in_order(steer):
    back = torch.argsort(ORDER)
    return steer.matrix()[back][:, back] if steer.form == "multiply" else steer.factors["a"][back]


@pytest.mark.parametrize("how", WORD_MAPS)
@pytest.mark.parametrize("form", ["multiply", "add"])
def test_a_model_in_disguise_gets_the_same_steer(llama, disguised, monkeypatch, how, form):
    for name in ("_DAMPING_STATES", "_DAMPING_WORDS"):
        monkeypatch.setattr(maps, name, 1e-9)
    monkeypatch.setattr(module, "_COST_SHARE", 1.0)
    steer = random_steer(llama, form)
    steer = replace(steer, card=replace(steer.card, origin="hf://org/style@main"))
    moved = transfer(llama, steer, disguised, texts=TEXTS, word_map=how)
    expected = steer.matrix() if form == "multiply" else steer.factors["a"]
    # regressions on float32 states, some of whose directions are small
    torch.testing.assert_close(in_order(moved), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    assert moved.card.base == "disguised"
    assert moved.card.fit["from"]["base"] == steer.card.base
    assert (moved.card.origin, moved.card.fit["from"]["origin"]) == ("", steer.card.origin)


def test_what_is_damped_points_the_same_way_and_costs_half(llama, disguised):
    steer = random_steer(llama)
    moved = transfer(llama, steer, disguised, texts=TEXTS)
    a, b = (moved.factors[name][torch.argsort(ORDER)] for name in ("A", "B"))
    m = overlaps([steer, replace(steer, factors={"A": a, "B": b})], fisher_factors(llama))
    assert float(m[0, 1] / (m[0, 0] * m[1, 1]).sqrt()) > 0.9  # 1 without damping, as above
    assert float(m[1, 1]) == pytest.approx(0.5 * float(m[0, 0]), rel=0.01)  # the two curvatures are measured apart


def test_a_reader_of_ends_is_carried(llama, disguised, tmp_path):
    done = fit(llama, styled(240), name="letters", out=tmp_path / "letters")
    moved = transfer(llama, done.steer, disguised, texts=TEXTS, labelled=styled(60, seed=9))
    assert set(moved.factors) == {"A", "B", "A_eos", "B_eos"}
    assert moved.card.held_out["texts"] == 30
    assert moved.card.held_out["sign_accuracy"] > 0.9
    assert moved.card.held_out["log_likelihood_gain"] > 0.5 * done.held_out.log_likelihood_gain
    again = transfer(llama, done.steer, disguised, texts=TEXTS, labelled=styled(60, seed=9))
    assert all(torch.equal(moved.factors[name], again.factors[name]) for name in moved.factors)


def test_ends_of_a_sum_are_carried_as_the_sum_of_ends(llama, disguised, tmp_path):
    done = fit(llama, styled(240), name="letters", out=tmp_path / "letters").steer
    other = replace(done, factors={**done.factors, "A_eos": done.factors["A_eos"].flip(0)})

    def end(steer):
        moved = transfer(llama, steer, disguised, texts=TEXTS).factors
        return moved["A_eos"] @ moved["B_eos"].T

    one, two = end(done), end(other)
    for strengths in ((2.0, 1.0), (2.0, -1.0), (-1.0, -1.0)):
        mix = merge(Mix({"one": done, "two": other}, dict(zip(("one", "two"), strengths, strict=True))), "sum")
        torch.testing.assert_close(end(mix), strengths[0] * one + strengths[1] * two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("labels", [[0.0] * 4, [1.0], [1.0, 1.0]])
def test_labels_that_tell_nothing_are_refused(llama, disguised, labels):
    texts = [LabelledText(f"{k}ab", label) for k, label in enumerate(labels)]
    with pytest.raises(DataError):
        transfer(llama, random_steer(llama), disguised, texts=TEXTS, labelled=texts)


def test_labelled_texts_are_counted_once_and_of_form_add_all_read(llama, disguised):
    twice = [*styled(20), *styled(20)]
    moved = transfer(llama, random_steer(llama), disguised, texts=TEXTS, labelled=twice)
    assert moved.card.held_out["texts"] == 10
    assert (
        transfer(llama, random_steer(llama, "add"), disguised, texts=TEXTS, labelled=twice).card.held_out["texts"] == 20
    )


def test_readings_of_ends_keep_their_mean_and_spread(llama, by_pairs):
    pairs = align_states(llama, by_pairs, TEXTS)
    a = torch.randn(32, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    before = pairs.source_ends.double() @ a
    after = pairs.target_ends.double() @ maps.map_eos_reader(pairs, a)
    assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-9)
    assert float(after.std()) == pytest.approx(float(before.std()), rel=0.05)  # the constant varies a little
    assert float(torch.corrcoef(torch.hstack([before, after]).T)[0, 1]) > 0.3


def test_models_of_different_tokenizers_are_paired_where_tokens_end(llama, by_pairs):
    texts = ["ab", "xlmy", " a", ""]
    pairs = align_states(llama, by_pairs, texts)
    assert [len(by_pairs.encode([text])[0]) for text in texts] == [1, 3, 1, 0]
    assert pairs.count == 1 + 3 + 1
    h1, h2 = [], []
    for text in texts[:3]:
        ends = [
            {end: k for k, (_, end) in enumerate(encode_with_offsets(lm, text, start=False, end=False).bounds)}
            for lm in (llama, by_pairs)
        ]
        states = [
            lm.hidden_states(torch.tensor([lm.encode([text])[0]]), torch.ones(1, len(lm.encode([text])[0])))[0]
            for lm in (llama, by_pairs)
        ]
        for end in sorted(ends[0].keys() & ends[1].keys()):
            h1.append(states[0][ends[0][end]])
            h2.append(states[1][ends[1][end]])
    h1, h2 = torch.stack(h1).double(), torch.stack(h2).double()
    # float32: texts are padded in batches
    torch.testing.assert_close(pairs.second_moment, h2.T @ h2 / 5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs.product, h2.T @ h1 / 5, rtol=1e-4, atol=1e-5)
    assert len(pairs.source_ends) == len(pairs.target_ends) == 3
    torch.testing.assert_close(pairs.target_ends, h2[[0, 3, 4]].float(), rtol=1e-4, atol=1e-5)


def test_blocks_that_one_tokenizer_drops_give_no_pairs(llama, monkeypatch):
    deaf = tiny_tokenizer()
    deaf.backend_tokenizer.normalizer = normalizers.Replace("q", "")
    monkeypatch.setattr(pairs_module, "_BLOCK", 1)
    found = align_states(llama, replace(llama, tokenizer=deaf), ["q", "ab", "qq"])
    assert found.count == 2


def test_words_are_shared_by_what_they_stand_for(llama, by_pairs):
    words = find_shared_vocabulary(llama, by_pairs, align_states(llama, by_pairs, TEXTS), 0.5)
    assert 90 < len(words.weights) < 256  # letters and signs, without the four that were left out and lone bytes
    assert float(words.weights.sum()) == pytest.approx(1)
    (flat, geometric) = (
        find_shared_vocabulary(llama, by_pairs, align_states(llama, by_pairs, TEXTS), power).weights
        for power in (0.0, 1.0)
    )
    assert float(flat.max() / flat.min()) == pytest.approx(1)
    squares = (geometric**0.5) / (geometric**0.5).sum()
    torch.testing.assert_close(words.weights, squares)  # half the power: the root, but for what makes them sum to one
    assert words.weights.min() > 0
    source, target = (torch.cat([*of_model.blocks()]) for of_model in (words.source, words.target))
    assert (words.weights @ source).abs().max() < 1e-12
    assert 0 < words.frequency < 1
    common = sorted((set(token_texts(llama)) & set(token_texts(by_pairs))) - {""})
    y, z = common.index("y"), common.index("z")
    for lm, rows in ((llama, source), (by_pairs, target)):
        e = [lm.head.weight[lm.tokenizer.convert_tokens_to_ids(letter)].double() for letter in "yz"]
        torch.testing.assert_close(rows[z] - rows[y], e[1] - e[0])


def test_moments_of_words_are_the_same_in_blocks_as_at_once(llama, by_pairs, monkeypatch):
    words = find_shared_vocabulary(llama, by_pairs, align_states(llama, by_pairs, TEXTS), 0.5)
    monkeypatch.setattr(shared_module, "_WORDS", 10)
    e1, e2 = (torch.cat([*of_model.blocks()]) for of_model in (words.source, words.target))
    assert len([*words.source.blocks()]) > 9
    q, x = words.weights[:, None], torch.randn(e1.shape[1], 3, generator=torch.Generator().manual_seed(0)).double()
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)  # float64, added up in another order
    close(words.second_moment(words.source), e1.T @ (q * e1))
    close(words.cross(), e2.T @ (q * e1))
    close(words.cross(x), e2.T @ (q * (e1 @ x)))


def test_what_cannot_be_carried_is_refused(llama, disguised, make_lm):
    steer = random_steer(llama)
    with pytest.raises(WrongBaseError):
        transfer(make_lm("qwen2"), steer, disguised, texts=TEXTS)
    with pytest.raises(SteerError, match="offset"):
        transfer(llama, random_steer(llama, "offset"), disguised, texts=TEXTS)
    with pytest.raises(DataError, match="gradient, ridge, procrustes"):
        transfer(llama, steer, disguised, texts=TEXTS, word_map="magic")
    with pytest.raises(DataError, match="too few texts"):
        transfer(llama, steer, disguised, texts=[" "])
    with pytest.raises(DataError, match="longer than the context"):
        transfer(llama, steer, make_lm("gpt2"), texts=["a" * 200])
    nothing = replace(steer, factors={name: torch.zeros_like(factor) for name, factor in steer.factors.items()})
    with pytest.raises(SteerError, match="nothing of steer"):
        transfer(llama, nothing, disguised, texts=TEXTS)
    strange = replace(
        disguised,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")), unk_token="<unk>"
        ),
    )
    with pytest.raises((ModelError, DataError)):
        transfer(llama, steer, strange, texts=TEXTS)


class WithoutFloat64(torch.Tensor):
    """A tensor on a device that has no float64, as MPS: ``cpu()`` takes it to one that has."""

    def double(self, *_, **__):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self, *_, **__):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_will_do(llama, monkeypatch):
    h = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    residual, probabilities = module._mean_eos_residual(llama, h), shared_module._mean_probabilities(llama.head, h)
    residuals, logits = Head.residuals, Head.logits
    monkeypatch.setattr(Head, "residuals", lambda *args: tuple(t.as_subclass(WithoutFloat64) for t in residuals(*args)))
    assert torch.equal(module._mean_eos_residual(llama, h), residual)
    monkeypatch.setattr(Head, "logits", lambda *args: logits(*args).as_subclass(WithoutFloat64))
    assert torch.equal(shared_module._mean_probabilities(llama.head, h), probabilities)
