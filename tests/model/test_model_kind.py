"""What is no causal language model is refused by its config, before any weights are read."""

from __future__ import annotations

import json
import sys

import pytest
from transformers import AutoConfig

from lmsteer.errors import ModelError
from lmsteer.model.loading import load
from tiny import FAMILIES


@pytest.mark.parametrize(
    ("family", "architecture", "message"),
    [
        ("t5", "T5ForConditionalGeneration", r"is an encoder-decoder \(t5\)"),
        ("bart", "BartForConditionalGeneration", r"is an encoder-decoder \(bart\)"),
        ("whisper", "WhisperForConditionalGeneration", r"is an encoder-decoder \(whisper\)"),
        ("bert", "BertForMaskedLM", r"is a masked language model, which reads a text in both directions \(bert\)"),
        ("roberta", "RobertaModel", "is a masked language model"),
        ("distilbert", "DistilBertForMaskedLM", "is a masked language model"),
        ("diffusion_gemma", "DiffusionGemmaForBlockDiffusion", "is a diffusion model"),
        ("vit", "ViTModel", r"transformers has no causal language model of \(vit\)"),
    ],
)
def test_other_kinds_are_refused_before_their_weights_are_read(tmp_path, family, architecture, message):
    config = AutoConfig.for_model(family)
    config.architectures = [architecture]
    config.save_pretrained(tmp_path)  # and no weights
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def described(folder, **fields):
    config = AutoConfig.for_model("llama", **FAMILIES["llama"]).to_dict()
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


def test_a_type_that_transformers_does_not_know_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"of the type 'wibble', which transformers \d.* does not know"):
        load(described(tmp_path, model_type="wibble"))


def test_code_of_its_own_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    described(tmp_path, model_type="wibble", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.LM"})
    (tmp_path / "code.py").write_text("raise RuntimeError('it ran')")
    with pytest.raises(ModelError, match=r"needs code of its own .* load\(..., trust_remote_code=True\)"):
        load(tmp_path)
    with pytest.raises(ModelError, match="it ran"):
        load(tmp_path, trust_remote_code=True)


def test_a_model_of_sentence_transformers_is_refused(tmp_path):
    described(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ModelError, match="makes embeddings of texts"):
        load(tmp_path)
