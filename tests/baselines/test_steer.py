"""A steer among the baselines."""

from __future__ import annotations

import pytest

from lmsteer.baselines.methods import fit_baseline, load_baseline, save_baseline
from lmsteer.steer.files import load_steer
from tiny import styled

TEXTS = styled(60)


def test_a_steer_keeps_its_card_among_the_baselines(llama, tmp_path):
    baseline = fit_baseline(llama, "steer", TEXTS)
    assert baseline.steer.card.held_out
    loaded = load_steer(save_baseline(baseline, tmp_path / "s"))
    assert loaded.card == baseline.steer.card
    assert load_baseline(tmp_path / "s").steer.card == baseline.steer.card


def test_ctrl_c_during_the_fit_of_a_steer_names_no_folder_that_is_gone(llama, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmsteer.fitting.activation_cache.compute_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_baseline(llama, "steer", TEXTS)


def test_a_steer_inside_the_model_is_a_method_of_its_own(llama, tmp_path):
    baseline = fit_baseline(llama, "deep-steer", styled(240))
    assert baseline.steer.sites == ("layers.1",)
    loaded = load_baseline(save_baseline(baseline, tmp_path / "s"))
    assert (loaded.method, loaded.capabilities.transferable) == ("deep-steer", False)
    assert loaded.steer.card == baseline.steer.card


def test_a_steer_at_linear_layers_alone_is_a_lora_in_closed_form(llama, tmp_path):
    baseline = fit_baseline(llama, "lora-steer", styled(240))
    assert baseline.steer.sites == ("layers.0.self_attn.o_proj", "layers.0.mlp.down_proj")
    assert set(baseline.steer.ranks.values()) - {0} == {8}
    assert load_baseline(save_baseline(baseline, tmp_path / "s")).method == "lora-steer"
