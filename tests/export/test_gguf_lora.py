"""A GGUF adapter: added to the weights of the base's own file, it makes the steered model."""

from __future__ import annotations

import gguf as gguf_format
import numpy as np
import pytest
import torch

from lmsteer.errors import ModelError, SteerError, WrongBaseError
from lmsteer.export.gguf import export_gguf_base
from lmsteer.export.gguf_base import GGUFBase, add_tensor, finish, values
from lmsteer.export.gguf_lora import export_gguf_lora
from lmsteer.model.loading import load
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import find_site
from tiny import inner_steer, random_steer
from tiny_gguf import write_gguf

# Queries and keys have their rows in another order in a file; ranks differ between sites.
SITES = ("layers.0.self_attn.q_proj", "layers.1.self_attn.k_proj", "layers.1.mlp.down_proj")


@pytest.fixture
def lm(tiny_gguf, cache):
    return load(tiny_gguf)


@pytest.fixture
def base(tiny_gguf, tmp_path):
    return export_gguf_base(tiny_gguf, tmp_path / "base.gguf")


def applied(base, adapter, scale, out):
    """The base's file with an adapter added to its weights, as llama.cpp adds it in flight: ``y += s α/r B A x``."""
    source, read = GGUFBase.open(base), gguf_format.GGUFReader(adapter)
    factors = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    alpha = read.get_field("adapter.lora.alpha").contents()
    writer = gguf_format.GGUFWriter(out, source.architecture)
    source._copy_fields(writer, None)
    for name, tensor in source.tensors.items():
        numbers = np.array(values(tensor))
        if f"{name}.lora_a" in factors:
            a, b = factors.pop(f"{name}.lora_a"), factors.pop(f"{name}.lora_b")
            numbers += scale * alpha / len(a) * b @ a
        add_tensor(writer, name, numbers.astype(np.float32), gguf_format.GGMLQuantizationType.F32)
    finish(writer)
    assert not factors
    return out


def logits(lm, mix=None):
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.inference_mode():
        if mix is None:
            return lm.model(ids).logits
        with lm.steered(mix):
            return lm.model(ids).logits


@pytest.mark.parametrize("scale", [1.0, -1.5])
@pytest.mark.parametrize("sites", [(), SITES])
def test_base_with_the_adapter_is_the_steered_model(lm, base, tmp_path, sites, scale):
    inner = inner_steer(lm, sites, rank=2, head=True)
    steers = {"one": inner, "two": random_steer(lm, seed=2, rank=4)}
    out = export_gguf_lora(lm, Mix(steers, {"one": 1.0, "two": -0.5}), base, tmp_path / "adapter.gguf")
    found = logits(load(applied(base, out, scale, tmp_path / "whole.gguf")))
    expected = logits(lm, Mix(steers, {"one": scale, "two": -0.5 * scale}))
    # float32: the products have another order, and random layers amplify that
    size = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * size)
    assert (expected - logits(lm)).abs().max() > 0.01 * size


def test_adapter_says_what_it_is(lm, base, tmp_path):
    out = export_gguf_lora(lm, Mix({"one": random_steer(lm)}, {"one": -2.5}), base, tmp_path / "adapter.gguf")
    fields = {field.name: field.contents() for field in gguf_format.GGUFReader(out).fields.values()}
    assert fields["general.type"] == "adapter"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.type"] == "lora"
    assert fields["general.name"] == "one=-2.5"
    assert lm.fingerprint in fields["general.description"]


def test_half_precision_is_within_its_rounding(lm, base, tmp_path):
    mix = Mix({"one": random_steer(lm)}, {"one": 1.0})
    whole, half = (
        {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in gguf_format.GGUFReader(file).tensors}
        for file in (
            export_gguf_lora(lm, mix, base, tmp_path / "f32.gguf"),
            export_gguf_lora(lm, mix, base, tmp_path / "f16.gguf", dtype="f16"),
        )
    )
    types = {tensor.tensor_type.name for tensor in gguf_format.GGUFReader(tmp_path / "f16.gguf").tensors}
    assert types == {"F16"}
    assert whole.keys() == half.keys()
    for name, factor in whole.items():
        assert np.abs(half[name] - factor).max() <= 2**-11 * np.abs(factor).max()


def test_a_quantised_layer_is_recognised(lm, tmp_path):
    source = write_gguf(tmp_path / "packed.gguf", packed="blk.1.ffn_down.weight")
    out = export_gguf_lora(lm, Mix({"one": inner_steer(lm, SITES)}, {"one": 1.0}), source, tmp_path / "adapter.gguf")
    assert len(gguf_format.GGUFReader(out).tensors) == 2 * len(SITES)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_transposed_layers_are_read_as_files_have_them(make_lm, tmp_path, is_transposed):
    """GPT-2's layers are (n, m) in transformers, and (m, n) in a file."""
    gpt2, site = make_lm("gpt2"), "layers.1.mlp.c_proj"
    module = find_site(gpt2.model, site).module
    source = tmp_path / "gpt2.gguf"
    writer = gguf_format.GGUFWriter(source, "gpt2")
    writer.add_block_count(2)
    weight = module.weight.detach()
    written = {"token_embd.weight": gpt2.head.weight.detach(), "blk.1.ffn_down.weight": weight.T}
    if is_transposed:
        written["blk.1.ffn_down.weight"] = weight
    for name, numbers in written.items():
        writer.add_tensor(name, numbers.contiguous().numpy())
    finish(writer)
    steer = inner_steer(gpt2, [site])
    if is_transposed:
        with pytest.raises(ModelError, match="another weight"):
            export_gguf_lora(gpt2, Mix({"one": steer}, {"one": 1.0}), source, tmp_path / "adapter.gguf")
        return
    out = export_gguf_lora(gpt2, Mix({"one": steer}, {"one": 2.0}), source, tmp_path / "adapter.gguf")
    a, b = (np.array(tensor.data) for tensor in gguf_format.GGUFReader(out).tensors)
    a_steer, b_steer = steer.inner[site]
    # float32; the factor's scale, the rank, is undone
    np.testing.assert_allclose(b @ a / len(a), (2.0 * b_steer @ a_steer.T).numpy(), rtol=1e-5, atol=1e-6)


def test_base_for_adapters_is_the_model(lm, base, tiny_gguf):
    before, after = GGUFBase.open(tiny_gguf), GGUFBase.open(base)
    own = dict(after.tensors)
    output = own.pop("output.weight")
    assert output.tensor_type == before.head.tensor_type
    assert np.array_equal(output.data, before.head.data)
    assert own.keys() == before.tensors.keys()
    assert torch.equal(logits(load(base)), logits(lm))


def test_file_with_an_output_tensor_needs_no_base(base, tmp_path):
    with pytest.raises(SteerError, match="as it is"):
        export_gguf_base(base, tmp_path / "again.gguf")


def test_steer_of_layers_alone_needs_no_output_tensor(lm, tiny_gguf, tmp_path):
    mix = Mix({"one": inner_steer(lm, SITES)}, {"one": 1.0})
    out = export_gguf_lora(lm, mix, tiny_gguf, tmp_path / "adapter.gguf")
    assert {tensor.name for tensor in gguf_format.GGUFReader(out).tensors} == {
        f"blk.{name}.weight.lora_{end}" for name in ("0.attn_q", "1.attn_k", "1.ffn_down") for end in "ab"
    }


def test_what_no_adapter_can_do_is_refused(lm, base, llama, tiny_gguf, tmp_path):
    out, mix = tmp_path / "adapter.gguf", Mix({"one": random_steer(lm)}, {"one": 1.0})
    with pytest.raises(SteerError, match="--to gguf-base"):
        export_gguf_lora(lm, mix, tiny_gguf, out)
    with pytest.raises(SteerError, match="on the stream"):
        export_gguf_lora(lm, Mix({"one": inner_steer(lm, ["layers.0"])}, {"one": 1.0}), base, out)
    with pytest.raises(SteerError, match="are f32 or f16, not 'q8_0'"):
        export_gguf_lora(lm, mix, base, out, dtype="q8_0")
    with pytest.raises(WrongBaseError):
        export_gguf_lora(lm, Mix({"one": random_steer(llama)}, {"one": 1.0}), base, out)
    with pytest.raises(ModelError, match="belongs to another model"):
        export_gguf_lora(llama, Mix({"one": random_steer(llama)}, {"one": 1.0}), base, out)
    assert not out.exists()


def test_adapters_and_models_do_not_overwrite_each_other(lm, base, tiny_gguf, tmp_path):
    mix = Mix({"one": random_steer(lm)}, {"one": 1.0})
    adapter = export_gguf_lora(lm, mix, base, tmp_path / "adapter.gguf")
    assert export_gguf_lora(lm, mix, base, adapter) == adapter
    before = base.read_bytes()
    with pytest.raises(SteerError, match="is a model, not an adapter"):
        export_gguf_lora(lm, mix, base, base)
    with pytest.raises(SteerError, match="is an adapter"):
        export_gguf_base(tiny_gguf, adapter)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SteerError, match="is not a GGUF file"):
        export_gguf_lora(lm, mix, base, tmp_path / "thesis.txt")
    assert base.read_bytes() == before


def test_a_part_of_a_file_is_refused(tmp_path):
    source = tmp_path / "part.gguf"
    writer = gguf_format.GGUFWriter(source, "llama")
    writer.add_uint16("split.count", 3)
    finish(writer)
    with pytest.raises(ModelError, match="join them with llama-gguf-split"):
        GGUFBase.open(source)


def test_architecture_without_an_output_tensor_takes_steers_of_layers(lm, tiny_gguf, tmp_path, monkeypatch):
    tensors = gguf_format.MODEL_TENSORS[gguf_format.MODEL_ARCH.LLAMA]
    without = [tensor for tensor in tensors if tensor != gguf_format.MODEL_TENSOR.OUTPUT]
    monkeypatch.setitem(gguf_format.MODEL_TENSORS, gguf_format.MODEL_ARCH.LLAMA, without)
    out = tmp_path / "adapter.gguf"
    with pytest.raises(ModelError, match="have no output tensor"):
        export_gguf_lora(lm, Mix({"one": random_steer(lm)}, {"one": 1.0}), tiny_gguf, out)
    assert export_gguf_lora(lm, Mix({"one": inner_steer(lm, SITES)}, {"one": 1.0}), tiny_gguf, out) == out


def test_file_with_another_weight_at_a_site_is_refused(lm, tmp_path):
    mix = Mix({"one": inner_steer(lm, SITES)}, {"one": 1.0})
    source = write_gguf(tmp_path / "other.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"no tensor for the linear layer layers\.1\.mlp\.down_proj"):
        export_gguf_lora(lm, mix, source, tmp_path / "adapter.gguf")
    source = write_gguf(tmp_path / "changed.gguf", changed="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"another weight than .* at layers\.1\.mlp\.down_proj"):
        export_gguf_lora(lm, mix, source, tmp_path / "adapter.gguf")
