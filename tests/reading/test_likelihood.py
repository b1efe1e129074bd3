"""Likelihoods at many strengths are what the steered model says at each."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.row import Row, row_noise
from lmsteer.model.kv_cache import Start
from lmsteer.reading import likelihood
from lmsteer.reading.encoded_text import EncodedText
from lmsteer.reading.likelihood import log_likelihoods, steered_log_likelihoods, windows
from lmsteer.steer.mix import Mix
from tiny import FAMILIES, inner_steer, random_steer

TEXTS = ["The cat", "A much longer text, to be padded", "", "x", "The cat sat"]
STRENGTHS = (-2.0, 0.0, 1.5)


def said(lm, ids, steer, strength):
    """Log-likelihood (T - 1,) of a text's tokens after its first, by the steered model itself."""
    ids = torch.tensor([ids])
    with lm.steered(Mix({"style": steer}, {"style": strength})), torch.no_grad():
        log_p = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)
    return log_p[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_what_the_steered_model_says(make_lm, family):
    lm = make_lm(family)
    inside = inner_steer(lm, ["layers.0", "layers.1"], head=True)
    steers, encoded = [random_steer(lm), inside, random_steer(lm, "offset", seed=3)], lm.encode(TEXTS)
    for ids, found in zip(encoded, steered_log_likelihoods(lm, encoded, steers, STRENGTHS), strict=True):
        assert found.shape == (3, 3, max(len(ids) - 1, 0))
        if len(ids) < 2:
            continue
        for steer, lines in zip(steers, found, strict=True):
            for strength, line in zip(STRENGTHS, lines, strict=True):
                # float32: h W E is summed in another order than (h + h W) E, and the text was padded.
                torch.testing.assert_close(line, said(lm, ids, steer, strength), rtol=1e-3, atol=1e-3)


@given(st.integers(0, 60), st.integers(2, 20), st.integers(1, 40))
def test_windows_tell_each_token_from_the_first_on_once_after_enough_of_the_text(length, size, first):
    found = list(windows(length, size, first))
    assert [token for window in found for token in range(window.first, window.end)] == list(range(first, length))
    for window in found:
        assert 0 <= window.start < window.first < window.end <= length
        assert window.end - window.start <= size
        assert window.first - window.start >= (size // 2 if window.start else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_inside_the_model_a_steer_reads_as_it_writes(make_lm, family):
    lm = make_lm(family)
    steer, prompt = inner_steer(lm, ["layers.0", "layers.1"], head=True), lm.encode(["A cat that"])[0]
    decoder, ids, written = Decoder(lm), [*prompt], list[float]()
    decoder.admit([Row(Start(prompt), row_noise(0, 0, 0, 5), {"s": steer}, {"s": 2.0})])
    for _ in range(5):
        done = decoder.step()
        ids.append(int(done.tokens))
        written.append(float(done.logits.float().log_softmax(-1)[0, ids[-1]]))
    text = EncodedText.of(ids, len(prompt), is_ended=False)
    (found,) = steered_log_likelihoods(lm, [text], [steer], [2.0])
    assert not found[0, 0, : len(prompt) - 1].any()
    assert not torch.allclose(found[0, 0], log_likelihoods(lm, [text])[0], atol=1e-2)
    # float32: a text at once, and token after token from a cache.
    torch.testing.assert_close(found[0, 0, len(prompt) - 1 :], torch.tensor(written), rtol=1e-3, atol=1e-3)
    (alone,) = steered_log_likelihoods(lm, [ids], [steer], [2.0])
    assert torch.equal(alone[0, 0, len(prompt) - 1 :], found[0, 0, len(prompt) - 1 :])


def test_a_long_text_is_read_in_windows(llama, make_lm):
    ids, steer = llama.encode(["A much longer text, to be read in windows"])[0], random_steer(llama)
    (found,) = steered_log_likelihoods(llama, [ids], [steer], [2.0], window=8)
    expected = torch.cat(
        [said(llama, ids[w.start : w.end], steer, 2.0)[w.first - w.start - 1 :] for w in windows(len(ids), 8)]
    )
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-3, atol=1e-3)  # as above
    gpt2 = make_lm("gpt2")
    steer, longer = random_steer(gpt2), ids * 10
    assert len(longer) > 2 * gpt2.max_length
    (found,) = steered_log_likelihoods(gpt2, [longer], [steer], [2.0])
    assert found.shape == (1, 1, len(longer) - 1)
    first = said(gpt2, longer[: gpt2.max_length], steer, 2.0)
    torch.testing.assert_close(found[0, 0, : len(first)], first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mamba"])
def test_a_window_is_read_in_passes_between_which_others_may_use_the_model(make_lm, family):
    lm, steer, passes = make_lm(family), random_steer(make_lm(family)), []
    ids = lm.encode(["A much longer text, to be read in passes", "short"])
    whole = steered_log_likelihoods(lm, ids, [steer], STRENGTHS)
    embedding = lm.model.get_input_embeddings()
    with embedding.register_forward_hook(lambda _, args, __: passes.append(args[0].numel())):
        found = steered_log_likelihoods(lm, ids, [steer], STRENGTHS, chunk=8)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # as above
    assert (max(passes) == 8) == (not lm.is_recurrent)


def test_where_others_may_use_the_model_a_few_tokens_are_scored_at_once(llama, monkeypatch):
    scored, real = [], likelihood.sweep_texts

    def sweep_texts(head, h, *rest):
        scored.append(len(h))
        return real(head, h, *rest)

    monkeypatch.setattr(likelihood, "sweep_texts", sweep_texts)
    ids = [[*range(1, 81)]]
    steered_log_likelihoods(llama, ids, [random_steer(llama)], STRENGTHS, chunk=40)
    assert scored == [32, 32, 15]


def test_the_eos_component_of_a_steer_acts_on_the_end_of_a_text_alone(llama):
    end, plain = llama.end_id, random_steer(llama)
    part = {"A_eos": torch.ones(32, 1), "B_eos": torch.ones(32, 1) / 4}
    ended = replace(plain, factors={**plain.factors, **part})
    texts = [[40, end, 41, 42, 43, 44, end], [40, 41, 42, 43, 44, 45, 46]]
    for window in (None, 4):
        for ids, found in zip(
            texts, steered_log_likelihoods(llama, texts, [ended, plain], [1.0], window=window), strict=True
        ):
            differs = found[0, 0] != found[1, 0]
            assert differs.tolist() == [False] * 5 + [ids[-1] == end]
    expected = said(llama, texts[0], ended.with_eos(), 1.0)[-1]
    found = steered_log_likelihoods(llama, texts[:1], [ended], [1.0])[0][0, 0, -1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # as above


def test_what_cannot_be_read_is_refused(llama, make_lm):
    ids, steer = llama.encode(TEXTS), random_steer(llama)
    with pytest.raises(DataError, match="no strengths"):
        steered_log_likelihoods(llama, ids, [steer], [])
    with pytest.raises(SteerError, match="finite"):
        steered_log_likelihoods(llama, ids, [steer], [math.nan])
    for window in (1, llama.max_length + 1):
        with pytest.raises(DataError, match=f"the window is {window} tokens"):
            steered_log_likelihoods(llama, ids, [steer], [1.0], window=window)
    with pytest.raises(WrongBaseError):
        steered_log_likelihoods(make_lm("qwen2"), ids, [steer], [1.0])
    assert steered_log_likelihoods(llama, [], [steer], [1.0]) == []


def test_a_batch_that_memory_is_short_for_is_read_in_halves(llama, monkeypatch):
    ids, steer = llama.encode(TEXTS), random_steer(llama)
    expected = steered_log_likelihoods(llama, ids, [steer], STRENGTHS)
    real = type(llama).predicting

    def short(lm, batch, mix):
        if len(batch) > 1:
            raise RuntimeError("CUDA out of memory.")
        return real(lm, batch, mix)

    monkeypatch.setattr(type(llama), "predicting", short)
    for found, line in zip(steered_log_likelihoods(llama, ids, [steer], STRENGTHS), expected, strict=True):
        torch.testing.assert_close(found, line, atol=1e-4, rtol=1e-4)


def test_short_memory_for_one_text_names_the_way_out(llama, monkeypatch):
    def short(*_, mix):
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(type(llama), "predicting", short)
    with pytest.raises(DataError, match="--window"):
        steered_log_likelihoods(llama, [[1, 2, 3]], [random_steer(llama)], [1.0])
    monkeypatch.setattr(type(llama), "predicting", lambda *_, mix: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        steered_log_likelihoods(llama, [[1, 2, 3]], [random_steer(llama)], [1.0])


def test_tokens_of_a_prompt_have_no_likelihood(llama):
    text = EncodedText.of([*range(5, 15)], 4, is_ended=False)
    (line,), (whole,) = log_likelihoods(llama, [text]), log_likelihoods(llama, [[*text]])
    assert not line[:3].any()
    torch.testing.assert_close(line[3:], whole[3:])
