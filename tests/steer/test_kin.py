"""A steer is accepted on its base before or after quantisation, with one notice, and refused on every other model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import gguf
import pytest
import torch

from lmsteer import Mix, generate, merge, verify
from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.generation.config import GenerationConfig
from lmsteer.model.fingerprints import head_sample, sampled_places
from lmsteer.model.head import HeadShard
from lmsteer.model.lm import LM
from lmsteer.steer.algebra import overlaps
from lmsteer.steer.lookup import SHIPPED_FOLDER, find_card
from lmsteer.util.progress import notice_once
from tiny import kin_of, own_steer, tiny_lm, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def forgotten():
    """Notices of earlier tests are told again."""
    notice_once.cache_clear()


def moved(lm: LM, share: float) -> LM:
    """A model whose head was trained on, by a share of its size."""
    model = deepcopy(lm.model)
    weight = model.get_output_embeddings().weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data += share * weight.data.norm() / noise.norm() * noise
    return LM(model, lm.tokenizer, "finetuned")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_a_quantised_base_and_its_original_take_each_other_s_steers(llama, kind, capsys):
    kin = kin_of(llama, kind)
    assert kin.fingerprint != llama.fingerprint
    for lm, fitted_on in ((kin, llama), (llama, kin)):
        steers = {"a": own_steer(fitted_on), "b": own_steer(fitted_on, "add", name="other")}
        strengths = {"a": 1.0, "b": 0.5}
        lm.check_base(Mix(steers, strengths))
        list(generate(lm, ["ab"], steers, [strengths], GenerationConfig(max_new_tokens=2)))
        told = capsys.readouterr().err
        assert told.count("\n") == 1  # once for all steers of a base
        assert f"steers of {fitted_on.name!r} act on {lm.name!r}, which is kin to it" in told
        assert "Their other weights are not compared; `lmsteer verify` measures what differs." in told
    llama.check_base(Mix({"a": own_steer(llama)}, {"a": 1.0}))
    assert capsys.readouterr().err == ""


def test_kin_of_the_default_model_are_recognised_by_their_heads_alone(smollm2, capsys):
    card, rows = find_card(SHIPPED_FOLDER / "sentiment"), smollm2.head.weight
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_0):
        sample = {}
        for k, (row, column) in enumerate(sampled_places(*rows.shape)):
            values = gguf.quants.dequantize(gguf.quants.quantize(rows[row].float().numpy()[None], kind), kind)
            sample[k] = float(values[0, column])
        card.check_head(sample)
    assert capsys.readouterr().err.count("act on the model at hand, which is kin to it") == 2  # Q8_0 changes nothing


def test_other_models_stay_refused(llama, make_lm, capsys):
    steer = own_steer(llama)
    torch.manual_seed(1)
    unrelated = tiny_model("llama")
    unrelated.get_output_embeddings().weight.data = torch.randn(unrelated.get_output_embeddings().weight.shape) * 0.3
    others = {
        "unrelated": LM(unrelated, tiny_tokenizer(), "unrelated"),
        "a fine-tune with a moved head": moved(llama, 0.4),
        "another width": LM(tiny_model("llama", hidden_size=64), tiny_tokenizer(), "wide"),
        "another vocabulary": LM(tiny_model("llama", vocab_size=300), tiny_tokenizer(), "long"),
    }
    for which, other in others.items():
        with pytest.raises(SteerError, match=r"was fitted on 'tiny-llama'|is for hidden size"):
            other.check_base(Mix({"s": steer}, {"s": 1.0}))
        with pytest.raises(WrongBaseError, match="output embedding is another"):
            steer.card.check_head(other.head_sample)
        assert not steer.card.shares_base(other.card("s")), which
    bare = replace(steer, card=replace(steer.card, head_sample=()))
    with pytest.raises(WrongBaseError, match="was fitted on"):
        kin_of(llama).check_base(Mix({"s": bare}, {"s": 1.0}))
    assert capsys.readouterr().err == ""


def test_a_kin_with_another_tokenizer_is_refused(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<s>"
    kin = LM(kin_of(llama).model, tokenizer, "kin")
    with pytest.raises(WrongBaseError, match="was fitted on"):
        own_steer(llama).card.check_base(kin)
    with pytest.raises(WrongBaseError, match="another tokenizer"):
        own_steer(llama).card.check_base(LM(llama.model, tokenizer, "same weights"))


def test_another_padding_token_makes_no_other_tokenizer(llama):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == len(llama.head.weight)
    padded = LM(llama.model, tokenizer, "padded")
    assert padded.tokenizer_fingerprint == llama.tokenizer_fingerprint
    padded.check_base(Mix({"s": own_steer(llama)}, {"s": 1.0}))
    assert padded.pad_id == 0
    (row,) = generate(padded, ["ab"], {"s": own_steer(llama)}, [{"s": 1.0}], GenerationConfig(max_new_tokens=2))
    assert row.text
    usual = tiny_tokenizer()
    usual.pad_token = usual.eos_token
    assert LM(llama.model, usual, "usual").tokenizer_fingerprint == llama.tokenizer_fingerprint


def test_steers_of_kin_act_together(llama):
    kin = kin_of(llama)
    one, other, foreign = own_steer(llama), own_steer(kin, seed=1), own_steer(moved(llama, 0.4))
    mix = Mix({"one": one, "other": other}, {"one": 1.0, "other": 2.0})
    assert merge(mix, "both").card.base == llama.name
    metric = type("Metric", (), {"inner": staticmethod(lambda a, b: float((a[0].T @ b[0] * (a[1].T @ b[1])).sum()))})
    assert overlaps([one, other], metric()).shape == (2, 2)
    with pytest.raises(SteerError, match="different base models cannot be mixed: one, foreign"):
        Mix({"one": one, "foreign": foreign}, {"one": 1.0, "foreign": 1.0})
    with pytest.raises(WrongBaseError, match="several base models"):
        overlaps([one, foreign], metric())


def test_a_part_of_a_head_recognises_kin(llama):
    kin, card = kin_of(llama), own_steer(llama).card
    rows = len(kin.head.weight)
    for first in range(0, rows, 40):
        part = kin.head.weight[first : first + 40]
        card.check_head(head_sample(part, rows, first))
        HeadShard(part, first, min(first + 40, rows), rows).check(own_steer(llama))


def test_verify_measures_how_far_kin_differ(llama):
    kin, steer = kin_of(llama), own_steer(llama)
    own = verify(llama, steer)
    assert (own.acts, own.kin, own.difference) == (True, False, None)
    found = verify(kin, steer, base=llama)
    assert found.acts
    assert found.kin
    assert 0 < found.difference.hidden_states < 0.5
    assert 0 < found.difference.divergence < 0.1
    assert 0 < found.difference.effect < 0.5
    near = verify(kin_of(llama, "Q8_0"), steer, base=llama).difference
    assert near.hidden_states < 0.1 * found.difference.hidden_states
    assert verify(kin, steer).to_json()["difference"] is None
    with pytest.raises(WrongBaseError, match=r"'tiny-llama-Q4_1' is not the base of steer 'style', 'tiny-llama'"):
        verify(kin, steer, base=kin)
    with pytest.raises(WrongBaseError, match="was fitted on"):
        verify(tiny_lm("gpt2"), steer)
