"""How the residual stream takes up what a linear layer writes."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import DataError
from lmsteer.fitting.inside.stream_effect import stream_effects
from lmsteer.steer.sites import all_sites, find_site
from tiny import FAMILIES, tiny_lm


def effects(lm, layer="layers.1"):
    found = {}
    for site in all_sites(lm.model).values():
        if site.is_weight and site.layer == layer:
            path = site.name.removeprefix(f"{layer}.")
            try:
                found[path] = stream_effects(lm, [site])[site.name]
            except DataError:
                found[path] = None
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_linear_layers_of_attention_and_mlp_write_to_the_stream_and_no_others(make_lm, family):
    found = effects(make_lm(family))
    writing = [effect for effect in found.values() if effect is not None]
    assert len(writing) == (1 if family == "mamba" else 2)
    # Gemma normalises what its layers write; with the tiny weights of a random model that enlarges it by hundreds.
    # Behind an attention the MLP adds a little of its own.
    assert all(effect > 10 if "gemma" in family else effect == pytest.approx(1, abs=0.01) for effect in writing)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_16_bits_the_same_layers_write(make_lm, family):
    if family == "mamba":
        pytest.skip("its scan takes no 16-bit numbers on a CPU")
    whole, half = effects(make_lm(family)), effects(tiny_lm(family, torch.bfloat16))
    assert whole.keys() == half.keys()
    for path, effect in whole.items():
        # A stream of 8 bits that is longer than what is written to it.
        assert half[path] == (None if effect is None else pytest.approx(effect, rel=0.3))


def test_a_scaled_residual_is_seen(make_lm, monkeypatch):
    lm = make_lm("granite")
    for layer in lm.model.model.layers:
        monkeypatch.setattr(layer, "residual_multiplier", 0.25)
    assert effects(lm)["mlp.down_proj"] == pytest.approx(0.25, abs=1e-4)  # float32


def test_what_does_not_write_to_the_stream_is_refused_with_what_does(llama):
    choice = r"Give layers.0 itself, layers.0.self_attn.o_proj, layers.0.mlp.down_proj, or head"
    for path in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"):
        with pytest.raises(DataError, match=choice):
            stream_effects(llama, [find_site(llama.model, f"layers.0.{path}")])


def test_nothing_stays_on_the_layer(llama):
    site = find_site(llama.model, "layers.0.mlp.down_proj")
    before = len(site.module._forward_hooks)
    assert stream_effects(llama, [site]) == stream_effects(llama, [site])
    assert len(site.module._forward_hooks) == before
