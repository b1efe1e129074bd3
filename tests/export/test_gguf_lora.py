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
            export_gguf_lora(lm, mix, base, tmp_path / "f16.gguf", kind="f16"),
        )
    )
    assert whole.keys() == half.keys()
    for name, factor in whole.items():
        assert np.abs(half[name] - factor).max() <= 2**-11 * np.abs(factor).max()


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
    with pytest.raises(SteerError, match="choose f32 or f16"):
        export_gguf_lora(lm, mix, base, out, kind="q8_0")
    with pytest.raises(WrongBaseError):
        export_gguf_lora(lm, Mix({"one": random_steer(llama)}, {"one": 1.0}), base, out)
    with pytest.raises(ModelError, match="belongs to another model"):
        export_gguf_lora(llama, Mix({"one": random_steer(llama)}, {"one": 1.0}), base, out)
    assert not out.exists()


def test_file_with_another_weight_at_a_site_is_refused(lm, tmp_path):
    mix = Mix({"one": inner_steer(lm, SITES)}, {"one": 1.0})
    source = write_gguf(tmp_path / "other.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"no tensor for the linear layer layers\.1\.mlp\.down_proj"):
        export_gguf_lora(lm, mix, source, tmp_path / "adapter.gguf")
    source = write_gguf(tmp_path / "changed.gguf", changed="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"another weight than .* at layers\.1\.mlp\.down_proj"):
        export_gguf_lora(lm, mix, source, tmp_path / "adapter.gguf")
