"""LM: hidden states and head of every architecture family are the model's own."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import DataError, ModelError, SteerError, WrongBaseError
from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.reading.analyse import analyse
from lmsteer.reading.verify import verify
from lmsteer.steer.hook import SteerHandle
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from tiny import FAMILIES, random_steer, tiny_lm, tiny_model, tiny_tokenizer

TEXTS = ["A quick test.", "Something else entirely, a bit longer", "x"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_of_hidden_states_gives_the_models_own_logits(make_lm, family):
    lm = make_lm(family)
    ids, mask = pad(lm.encode(TEXTS), 0, lm.device)
    ours = lm.head.logits(lm.hidden_states(ids, mask))
    theirs = lm.model(input_ids=ids, attention_mask=mask).logits
    # The same float32 products in another order of sums.
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_identity_holds_on_every_family(make_lm, family, form):
    lm = make_lm(family)
    done = verify(lm, random_steer(lm, form), strength=1.5)
    failed = [check for check in done.checks if not check.passed]
    assert not failed
    assert done.checks[0].difference > 0.01  # the steer acts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("form", ["multiply", "add", "offset"])
def test_identities_hold_in_half_precision(dtype, family, form):
    lm = tiny_lm(family, dtype)
    for strength in (1.0, 4.0):
        assert verify(lm, realistic_steer(lm, form), strength=strength).acts


# Shares of the shift of the logits at these strengths: numbers of 8 and of 11 bits, beside which the shift is small.
@pytest.mark.parametrize(
    ("dtype", "errors"),
    [(torch.bfloat16, {0.25: 0.4, 1.0: 0.1, 4.0: 0.03}), (torch.float16, {0.25: 0.05, 1.0: 0.015, 4.0: 0.005})],
)
def test_half_precision_rounds_small_shifts_but_not_their_mean(llama, dtype, errors):
    steer, h = realistic_steer(llama), some_hidden_states(llama).to(dtype)
    for strength, error in errors.items():
        mix = Mix({"s": steer}, {"s": strength})
        found, exact = (mix.steer_hidden_states(x).float() - x.float() for x in (h, h.float()))
        found, exact = (llama.head.direction(shift) for shift in (found, exact))
        assert error / 8 < float((found - exact).norm() / exact.norm()) < error
        assert float((found * exact).sum() / exact.square().sum()) == pytest.approx(1, abs=0.05)


def some_hidden_states(lm):
    ids, mask = pad(lm.encode(TEXTS), 0, lm.device)
    return lm.hidden_states(ids, mask)[mask.bool()]


def realistic_steer(lm, form="multiply"):
    """A steer whose strength 1 moves hidden states by 5 % of their size, as those that come with the package do."""
    steer = random_steer(lm, form)
    if form == "offset":
        return steer
    h = some_hidden_states(lm).float()
    shift = Mix({"s": steer}, {"s": 1.0}).steer_hidden_states(h) - h
    return steer.scaled(0.05 * float(h.norm() / shift.norm()))


def test_residuals_are_the_gradient_of_the_log_likelihood(make_lm):
    for family in ("llama", "gemma2", "granite", "cohere"):
        lm = make_lm(family)
        h = torch.randn(7, 32, requires_grad=True)
        y = torch.randint(0, lm.head.weight.shape[0], (7,))
        log_p = lm.head.logits(h).log_softmax(-1).gather(1, y[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(log_p.sum(), h)
        r, found = lm.head.residuals(h.detach(), y)
        torch.testing.assert_close(r, gradient, rtol=1e-4, atol=1e-5)  # float32, other order of sums
        torch.testing.assert_close(found, log_p.detach(), rtol=1e-5, atol=1e-5)


def test_pieces_do_not_change_the_result(llama, monkeypatch):
    h, y = torch.randn(9, 32), torch.randint(0, 200, (9,))
    whole = llama.head.residuals(h, y)
    monkeypatch.setattr("lmsteer.model.head.PIECE_NUMBERS", 600)
    pieces = llama.head.residuals(h, y)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # other sizes of matrix products


def test_tied_heads_stay_tied_and_untouched(llama):
    before = llama.head.weight.clone()
    with llama.steered(Mix({"s": random_steer(llama)}, {"s": 3.0})):
        llama.model(input_ids=torch.arange(5)[None])
    assert torch.equal(llama.head.weight, before)


def test_a_model_that_does_something_else_to_its_logits_is_refused():
    lm = tiny_lm("llama")
    forward = lm.model.forward

    def doubled(*args: object, **options: object) -> object:
        output = forward(*args, **options)
        output.logits = output.logits * 2
        return output

    lm.model.forward = doubled
    with pytest.raises(ModelError, match="does something to its logits"):
        LM(lm.model, lm.tokenizer, "odd")


def test_a_model_without_a_head_is_refused(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with pytest.raises(ModelError, match="has no output embedding"):
        LM(model, tiny_tokenizer(), "headless")


def test_fingerprints_tell_models_apart_but_not_dtypes():
    one, same = tiny_lm("llama"), tiny_lm("llama", torch.bfloat16)
    assert one.fingerprint == same.fingerprint
    other = tiny_lm("llama")
    other.model.model.norm.weight.data += 0.5
    assert LM(other.model, other.tokenizer, "x").fingerprint != one.fingerprint


def test_a_steer_of_another_base_is_refused_with_both_fingerprints(make_lm):
    llama, mistral = make_lm("llama"), make_lm("qwen3")
    with pytest.raises(WrongBaseError) as caught:
        mistral.steered(Mix({"s": random_steer(llama)}, {"s": 1.0}))
    assert llama.fingerprint in str(caught.value)
    assert mistral.fingerprint in str(caught.value)


def test_a_steer_of_another_shape_is_refused(llama):
    steer = random_steer(llama)
    wrong = type(steer)("add", {"a": torch.zeros(8)}, 8, 99, steer.card)
    with pytest.raises(SteerError, match="hidden size 8 and vocabulary 99"):
        SteerHandle(llama.model, Mix({"s": wrong}, {"s": 1.0}))


def test_loading_nothing_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the model"):
        load(tmp_path)


def test_a_saved_model_loads_with_its_tokenizer(llama, tmp_path):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.fingerprint == llama.fingerprint
    assert loaded.tokenizer_fingerprint == llama.tokenizer_fingerprint


def test_half_of_a_character_is_told(llama):
    with pytest.raises(DataError, match="text 2 has half of a character"):
        llama.encode(["whole", "half \ud800"])


def test_a_steer_of_another_shape_is_refused_whatever_its_card_says(llama):
    steer = random_steer(llama)
    for other in (
        Steer("multiply", {"A": torch.zeros(16, 1), "B": torch.zeros(16, 1)}, 16, steer.vocabulary, steer.card),
        Steer("multiply", steer.factors, steer.hidden_size, 999, steer.card),
    ):
        with pytest.raises(SteerError, match="but the model has 32 and 259"):
            llama.steered(Mix({"s": other}, {"s": 1.0}))
        with pytest.raises(SteerError, match="but the model has 32 and 259"):
            analyse(llama, ["a"], {"s": other})
