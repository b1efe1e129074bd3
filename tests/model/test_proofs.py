"""A model is proved causal when it becomes an LM, on a few tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lmsteer.errors import ModelError
from lmsteer.model.lm import LM
from tiny import FAMILIES, tiny_model, tiny_tokenizer

BERT = FAMILIES["gpt_neox"]
KV = FAMILIES["llama"]
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def made(family, dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=259, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options)
    return LM(AutoModelForCausalLM.from_config(config).to(dtype), tiny_tokenizer(), family)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", BERT),
        ("roberta", BERT),
        ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
        ("gemma3_text", {**KV, "head_dim": 8, "use_bidirectional_attention": True}),
    ],
)
def test_models_that_see_later_tokens_are_refused(family, options, dtype):
    with pytest.raises(ModelError, match=r"is no causal language model: a later token moves .* by \d+.\d% of their"):
        made(family, dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", {**BERT, "is_decoder": True}),
        ("mixtral", {**KV, "num_local_experts": 4}),
        ("qwen3_moe", {**KV, **EXPERTS}),
        ("bart", {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}),
    ],
)
def test_decoders_and_mixtures_of_experts_are_causal(family, options, dtype):
    assert made(family, dtype, **options).hidden_size == 32


def test_a_prefix_that_is_read_in_both_directions_is_refused(monkeypatch):
    """Only the last two tokens see each other, and the model has been trained: most tokens have one embedding."""
    model = tiny_model("llama")
    model.get_input_embeddings().weight.data[100:] = 1.0
    layer = model.model.layers[1]
    forward = layer.forward

    def look_ahead(h, *args, **options):
        return forward(torch.cat([h[:, :-2], h[:, -2:] + 0.05 * h[:, -2:].mean(1, keepdim=True)], 1), *args, **options)

    monkeypatch.setattr(layer, "forward", look_ahead)
    with pytest.raises(ModelError, match="is no causal language model"):
        LM(model, tiny_tokenizer(), "prefix")


def test_a_random_forward_pass_is_called_so(monkeypatch):
    model = tiny_model("llama")
    model.model.layers[0].register_forward_hook(lambda _, args, out: out + torch.randn_like(out) / 10)
    with pytest.raises(ModelError, match="gives other hidden states each time that it reads the same text"):
        LM(model, tiny_tokenizer(), "noisy")


def test_a_model_that_ignores_its_tokens_is_refused():
    model = tiny_model("llama")
    model.get_input_embeddings().weight.data[:] = 1.0
    with pytest.raises(ModelError, match="gives the same hidden state for every token"):
        LM(model, tiny_tokenizer(), "constant")


def test_the_proofs_take_two_forward_passes(monkeypatch):
    model = tiny_model("llama")
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    LM(model, tiny_tokenizer(), "counted")
    assert len(calls) == 2
