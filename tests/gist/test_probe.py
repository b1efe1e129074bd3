"""Models are tried before they are given gists: what cannot be done exactly is refused, by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.errors import ModelError
from lmsteer.gist.probe import check_maskable, is_shift_invariant
from tiny import FAMILIES, tiny_lm, tiny_model


@pytest.mark.parametrize(("family", "message"), [("mamba", "keeps a state"), ("bloom", "takes no position_ids")])
def test_models_that_honour_no_gist_mask_are_refused_by_name(make_lm, family, message):
    with pytest.raises(ModelError, match=message):
        check_maskable(make_lm(family))


def test_attention_that_ignores_masks_is_refused_by_name(llama):
    other = replace(llama, model=tiny_model("llama"))
    other.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="'flash_attention_2' of tiny"):
        check_maskable(other)
    other.model.config._attn_implementation = "eager"
    check_maskable(other)
    other.model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ModelError, match="in chunks"):
        check_maskable(other)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [("attention_mask", "lets tokens see what its mask hides"), ("position_ids", "ignores the positions")],
)
def test_a_model_that_drops_masks_or_positions_is_refused(llama, dropped, message):
    other = replace(llama, model=tiny_model("llama"))

    def drop(_, args, given):
        return args, {name: value for name, value in given.items() if name != dropped}

    other.model.model.register_forward_pre_hook(drop, with_kwargs=True)
    with pytest.raises(ModelError, match=message):
        check_maskable(other)


def test_a_model_whose_cache_differs_from_its_tokens_is_refused(llama):
    other = replace(llama, model=tiny_model("llama"))

    def blur(_, args, given):
        if (cache := given.get("past_key_values", given.get("cache"))) is not None and cache.get_seq_length():
            for layer in cache.layers:
                layer.values.mul_(1.5)

    other.model.model.layers[0].register_forward_pre_hook(blur, with_kwargs=True)
    with pytest.raises(ModelError, match="other hidden states after a KV cache"):
        check_maskable(other)


def test_a_model_that_takes_no_such_mask_is_refused_with_its_error(llama):
    other = replace(llama, model=tiny_model("llama"))

    def refuse(_, args, given):
        if given["attention_mask"] is not None and given["attention_mask"].dim() == 4:
            raise IndexError("too many dimensions")

    other.model.model.layers[0].register_forward_pre_hook(refuse, with_kwargs=True)
    with pytest.raises(ModelError, match="cannot be run under gist masks: IndexError: too many dimensions"):
        check_maskable(other)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bloom", "mamba"}))
def test_rotary_models_are_shift_invariant(make_lm, family):
    assert is_shift_invariant(make_lm(family)) == (family not in {"gpt2", "gpt_neo", "gptj", "opt"})


def test_scales_that_change_with_length_are_not_shift_invariant(monkeypatch):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    monkeypatch.setitem(FAMILIES, "llama", {**FAMILIES["llama"], "rope_parameters": rope})
    assert not is_shift_invariant(tiny_lm("llama"))


def test_a_model_with_nan_at_negative_positions_is_not_shift_invariant(llama):
    other = replace(llama, model=tiny_model("llama"))

    def spoil(_, args, given):
        shift = torch.where((given["position_ids"] < 0).any(), torch.nan, 0.0)
        return (args[0] + shift, *args[1:]), given

    other.model.model.layers[0].register_forward_pre_hook(spoil, with_kwargs=True)
    assert not is_shift_invariant(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_layer_that_leaks_a_little_is_refused_in_any_precision(dtype):
    lm = tiny_lm("llama", dtype)
    lm.model.model.layers[1].self_attn.o_proj.weight.data.mul_(0.2)
    check_maskable(lm)
    other = tiny_lm("llama", dtype)
    other.model.model.layers[1].self_attn.o_proj.weight.data.mul_(0.2)

    def open_up(_, args, given):
        return args, {**given, "attention_mask": None}

    other.model.model.layers[1].register_forward_pre_hook(open_up, with_kwargs=True)
    with pytest.raises(ModelError, match="lets tokens see"):
        check_maskable(other)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
        ("openai-gpt", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    ],
)
def test_other_models_are_refused_without_a_traceback(monkeypatch, family, settings):
    monkeypatch.setitem(FAMILIES, family, settings)
    with pytest.raises(ModelError):
        check_maskable(tiny_lm(family))
