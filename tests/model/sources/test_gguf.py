"""GGUF files: converted to the model and the tokenizer that they hold, or refused with the cause."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmsteer.errors import ModelError
from lmsteer.model.sources.gguf import _repair_tokenizer, convert_gguf
from lmsteer.model.sources.resolve import resolve
from tiny_gguf import TEMPLATE, built, tensors, write_gguf

ODD_TEXTS = [
    "",
    " ",
    "\n\n\t x",
    "a  b\n\n1. c  2024",
    "naïve café 你好 🙂\u200d🔥 \u200b\ufeff",
    "<|im_start|>user\nhi<|im_end|>",
    "\x00\x01",
    "e\u0301 Å",
    "１２３ ½",
]


def test_a_converted_gguf_is_the_model_and_the_tokenizer_of_the_file(tiny_gguf, cache, capfd):
    source = resolve(tiny_gguf)
    assert (source.name, source.local) == ("tiny", True)
    assert "converting tiny.gguf" in capfd.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(source.location)
    direct = AutoModelForCausalLM.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32)
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids).logits, direct(ids).logits)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    packed = gguf_format.quants.quantize(tensors()["token_embd.weight"], gguf_format.GGMLQuantizationType.Q8_0)
    table = gguf_format.quants.dequantize(packed, gguf_format.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy(), table)


def test_a_converted_tokenizer_is_that_of_the_file_with_its_digits_apart(tiny_gguf, cache):
    tokenizer = AutoTokenizer.from_pretrained(resolve(tiny_gguf).location)
    direct = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.get_vocab() == direct.get_vocab()
    assert not tokenizer.clean_up_tokenization_spaces
    for text in ODD_TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        if not any(letter.isnumeric() for letter in text):
            assert tokenizer(text)["input_ids"] == direct(text)["input_ids"], text
    # "smollm" sets each digit apart first, so the white space before one keeps together.
    assert tokenizer.tokenize("a\n\n1  20") == ["a", "ĊĊ", "1", "ĠĠ", "2", "0"]


def test_special_tokens_are_those_that_the_file_names(tiny_gguf, cache):
    tokenizer = AutoTokenizer.from_pretrained(resolve(tiny_gguf).location)
    direct = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    tokens = gguf_format.GGUFReader(tiny_gguf).get_field("tokenizer.ggml.tokens").contents()
    named = {"bos_token": tokens[1], "eos_token": tokens[2], "pad_token": tokens[2]}
    assert tokenizer.special_tokens_map == {**direct.special_tokens_map, **named}
    direct.eos_token, direct.pad_token = tokens[1], None  # as some releases of transformers read them
    mended = _repair_tokenizer(direct, tiny_gguf)
    assert mended.special_tokens_map == tokenizer.special_tokens_map


def test_a_conversion_depends_on_the_file_alone(tiny_gguf, cache, tmp_path):
    (tmp_path / "tokenizer.json").write_text("not a tokenizer")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "other"}')
    (tmp_path / "generation_config.json").write_text('{"temperature": 9.0}')
    shutil.copy(tiny_gguf, tmp_path / "moved.GGUF")
    source = resolve(str(tmp_path / "moved.GGUF"))
    assert source.name == "moved"
    assert AutoTokenizer.from_pretrained(source.location).chat_template == TEMPLATE
    assert "temperature" not in (Path(source.location) / "generation_config.json").read_text()
    assert resolve(tiny_gguf).location == source.location


def test_a_machine_that_grants_no_links_converts_too(tiny_gguf, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    convert_gguf(tiny_gguf, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_transformers_is_told_to_unpack_every_block(tiny_gguf, tmp_path, monkeypatch):
    seen: dict[str, object] = {}
    load = AutoModelForCausalLM.from_pretrained

    def spy(*args: object, **options: object) -> object:
        seen.update(options)
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    convert_gguf(tiny_gguf, tmp_path / "out")
    if hasattr(transformers, "GgufConfig"):
        assert seen["quantization_config"].dequantize
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"GGUF" + bytes(100),
        lambda whole: b"not a model at all",
        lambda whole: whole[: len(whole) // 8],
        lambda whole: whole[:-1000],
        lambda whole: whole.replace(b"llama", b"lemur"),
    ],
    ids=["empty", "zeros", "text", "cut in the header", "cut in the tensors", "unknown kind"],
)
def test_a_damaged_gguf_is_refused_with_its_cause(tiny_gguf, cache, tmp_path, damage):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(damage(tiny_gguf.read_bytes()))
    with pytest.raises(ModelError, match=r"cannot read the GGUF file .*damaged\.gguf: \w+: "):
        resolve(damaged)
    assert built(cache) == []


def test_a_gguf_that_lacks_a_tensor_is_refused(cache, tmp_path):
    partial = write_gguf(tmp_path / "partial.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 tensor of LlamaForCausalLM \(model\.layers\.1\.mlp\.up_proj"):
        resolve(partial)
