"""The context length is what a model can really take: up to it texts are read, and beyond it tables end."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.model.context_length import UNLIMITED, stated_length
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import analyse
from tiny import FAMILIES, random_steer, tiny_tokenizer

BERT = {**FAMILIES["gpt_neox"], "is_decoder": True}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
MPT = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 40}
# Forty positions, under the name that the family has for them; the tables of OPT and others have two rows more.
POSITIONS = {
    **dict.fromkeys(("gpt2", "gptj", "ctrl", "openai-gpt"), "n_positions"),
    "mpt": "max_seq_len",
    "whisper": "max_target_positions",
}
TABLES = {
    "mpt": MPT,
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 4},
    "ctrl": {**GPT, "dff": 48},
    "openai-gpt": GPT,
    "gpt_neo": FAMILIES["gpt_neo"],
    "opt": FAMILIES["opt"],
    "biogpt": FAMILIES["gpt_neox"],
    "bart": BART,
    "whisper": BART,
    "bert": BERT,
    "roberta": BERT,
}
ENDLESS = {
    **{family: FAMILIES[family] for family in ("llama", "qwen3", "gemma2", "gpt_neox", "granite")},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
}


def made(family, options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=259, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options)
    return LM(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), family)


def read(lm, tokens):
    ids = torch.full((1, tokens), 9)
    return lm.hidden_states(ids, torch.ones_like(ids)).shape[1]


@pytest.mark.parametrize("family", TABLES)
def test_a_table_of_positions_ends_the_context(family):
    lm = made(family, {**TABLES[family], POSITIONS.get(family, "max_position_embeddings"): 40})
    # RoBERTa's positions begin after that of padding, here the first row, and its config counts all rows.
    assert lm.max_length == (39 if family == "roberta" else 40)
    assert read(lm, lm.max_length) == lm.max_length
    with pytest.raises((IndexError, RuntimeError)):
        read(lm, lm.max_length + 1)


@pytest.mark.parametrize("family", ENDLESS)
def test_positions_without_a_table_end_where_the_config_says(family):
    assert made(family, {**ENDLESS[family], "max_position_embeddings": 40}).max_length == 40


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_a_model_without_positions_has_no_limit(family, make_lm):
    assert make_lm(family).max_length == UNLIMITED
    assert read(make_lm(family), 600) == 600


@pytest.mark.parametrize(
    ("family", "fields", "length"),
    [
        ("llama", {"max_position_embeddings": 40}, 40),
        ("llama", {"max_position_embeddings": 40, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}, 80),
        ("llama", {"max_position_embeddings": 40, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 80),
        (
            "llama",  # the config gives the length after stretching, or the one before
            {
                "max_position_embeddings": 80,
                "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 40},
            },
            80,
        ),
        ("llama", {"max_position_embeddings": 40, "max_sequence_length": 20}, 40),  # a note that no code reads
        ("bloom", {"seq_length": 40}, 40),
        ("cohere", {"max_position_embeddings": 40, "model_max_length": 80}, 80),
        ("xlnet", {}, UNLIMITED),  # says -1
        ("rwkv", {"context_length": 40}, 40),
        ("gemma3", {"text_config": {"max_position_embeddings": 40}}, 40),
    ],
)
def test_the_length_that_a_config_states(family, fields, length):
    if "rope_parameters" in fields:
        fields["rope_parameters"]["rope_theta"] = 1e4
    assert stated_length(AutoConfig.for_model(family, **fields)) == length


def test_windows_and_refusals_follow():
    lm = made("mpt", MPT)
    (found,) = analyse(lm, ["a document of more than forty tokens, " * 4], {"style": random_steer(lm)})
    assert len(found.tokens) > 3 * lm.max_length
    fits, beyond = (GenerationConfig(max_new_tokens=new, num_samples=1) for new in (10, 11))
    assert len(list(generate(lm, ["a" * 30], config=fits))) == 1
    with pytest.raises(DataError, match="longer than the model's context of 40"):
        list(generate(lm, ["a" * 30], config=beyond))
