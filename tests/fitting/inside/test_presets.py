"""What the presets stand for, in models of every family."""

from __future__ import annotations

import pytest

from lmsteer.errors import SteerError
from lmsteer.fitting.inside.presets import sites_of_description, sites_of_labels
from lmsteer.model.lm import LM
from tiny import FAMILIES, tiny_model, tiny_tokenizer


def names(sites):
    return [site.name if site else "head" for site in sites]


@pytest.fixture(scope="module")
def deeper():
    """A Llama of six layers."""
    return LM(tiny_model("llama", num_hidden_layers=6), tiny_tokenizer(), "deeper")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_is_at_linear_layers_that_write_to_the_stream(make_lm, family):
    lm = make_lm(family)
    found = sites_of_labels(lm, ["lora"])
    assert found
    assert all(site.is_weight and site.outputs == lm.hidden_size and site.layer == "layers.0" for site in found)
    assert len(found) == (1 if family == "mamba" else 2)


def test_presets_stand_for_other_layers_with_labels_than_with_descriptions(deeper):
    def writers(*layers):
        return [f"layers.{n}.{path}" for n in layers for path in ("self_attn.o_proj", "mlp.down_proj")]

    assert names(sites_of_labels(deeper, ["deep"])) == ["layers.3"]
    assert names(sites_of_labels(deeper, ["lora"])) == writers(2, 3)
    assert names(sites_of_description(deeper, ["deep"])) == ["layers.4", "head"]
    assert names(sites_of_description(deeper, ["lora"])) == writers(3, 4, 5)


def test_presets_go_with_patterns_and_the_head(deeper):
    assert names(sites_of_labels(deeper, ["head", "layers.0", "deep"])) == ["layers.0", "layers.3"]
    assert names(sites_of_description(deeper, ["lora", "head", "layers.4"])) == [
        *(f"layers.3.{path}" for path in ("self_attn.o_proj", "mlp.down_proj")),
        *(f"layers.4.{path}" for path in ("self_attn.o_proj", "mlp.down_proj")),
        "layers.4",
        *(f"layers.5.{path}" for path in ("self_attn.o_proj", "mlp.down_proj")),
        "head",
    ]
    assert names(sites_of_description(deeper, ["head"])) == ["head"]
    with pytest.raises(SteerError, match="no site of LlamaForCausalLM matches 'loras'"):
        sites_of_labels(deeper, ["loras"])
