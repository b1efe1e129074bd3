"""A GGUF file with a steer in it: its own output tensor, and all else as it was."""

from __future__ import annotations

import shutil

import gguf as gguf_format
import numpy as np
import pytest
import torch

from lmsteer.errors import ModelError, OutputError, SteerError, WrongBaseError
from lmsteer.export.gguf import export_gguf
from lmsteer.export.updates import merged_head
from lmsteer.model.loading import load
from lmsteer.steer.mix import Mix
from tiny import random_steer
from tiny_gguf import write_gguf


@pytest.fixture
def lm(tiny_gguf, cache):
    return load(tiny_gguf)


@pytest.fixture
def mix(lm):
    steers = {"one": random_steer(lm, seed=1), "two": random_steer(lm, seed=2)}
    return Mix(steers, {"one": 1.5, "two": -0.5})


def test_output_is_steered_and_everything_else_is_copied(lm, mix, tiny_gguf, tmp_path):
    out = export_gguf(lm, mix, tiny_gguf, tmp_path / "out" / "steered.gguf", output="f32")
    before, after = gguf_format.GGUFReader(tiny_gguf), gguf_format.GGUFReader(out)
    assert {f.name: (f.contents(), f.types) for f in after.fields.values() if not f.name.startswith("GGUF.")} == {
        f.name: (f.contents(), f.types) for f in before.fields.values() if not f.name.startswith("GGUF.")
    }
    tensors = {tensor.name: tensor for tensor in after.tensors}
    output = tensors.pop("output.weight")
    assert np.array_equal(output.data, merged_head(lm, mix).numpy())
    assert set(tensors) == {tensor.name for tensor in before.tensors}
    for tensor in before.tensors:
        assert tensors[tensor.name].tensor_type == tensor.tensor_type
        assert np.array_equal(tensors[tensor.name].data, tensor.data)


def test_transformers_reads_the_steered_model(lm, mix, tiny_gguf, tmp_path, cache):
    steered = load(export_gguf(lm, mix, tiny_gguf, tmp_path / "steered.gguf", output="f32"))
    ids = torch.arange(3, 15).reshape(2, 6)
    with torch.inference_mode():
        found = steered.model(ids).logits
        with lm.steered(mix):
            expected = lm.model(ids).logits
    # float32: E (I + W)ᵀ h in one product in place of two
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("q8_0", 2e-2)])
def test_smaller_types_are_within_their_rounding(lm, mix, tiny_gguf, tmp_path, kind, tolerance):
    out = export_gguf(lm, mix, tiny_gguf, tmp_path / "steered.gguf", output=kind, others="f16")
    tensors = {tensor.name: tensor for tensor in gguf_format.GGUFReader(out).tensors}
    found = gguf_format.quants.dequantize(tensors["output.weight"].data, tensors["output.weight"].tensor_type)
    expected = merged_head(lm, mix).numpy()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
    assert tensors["token_embd.weight"].tensor_type == gguf_format.GGMLQuantizationType.F16


def test_alignment_is_kept(lm, mix, tmp_path):
    source = write_gguf(tmp_path / "aligned.gguf", alignment=64)
    out = export_gguf(lm, mix, source, tmp_path / "steered.gguf", output="f32")
    reader = gguf_format.GGUFReader(out)
    assert reader.alignment == 64
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert np.array_equal(tensors["output.weight"].data, merged_head(lm, mix).numpy())
    for tensor in gguf_format.GGUFReader(source).tensors:
        assert np.array_equal(tensors[tensor.name].data, tensor.data)


def test_invalid_export_is_refused(lm, mix, tiny_gguf, llama, tmp_path):
    out = tmp_path / "steered.gguf"
    with pytest.raises(SteerError, match="f32, f16, q8_0"):
        export_gguf(lm, mix, tiny_gguf, out, output="q4_9")
    with pytest.raises(ModelError, match="cannot read the GGUF file"):
        export_gguf(lm, mix, tmp_path / "nowhere.gguf", out)
    with pytest.raises(WrongBaseError):
        export_gguf(lm, Mix({"one": random_steer(llama)}, {"one": 1.0}), tiny_gguf, out)
    (tmp_path / "short.gguf").write_bytes(tiny_gguf.read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot read the GGUF file"):
        export_gguf(lm, mix, tmp_path / "short.gguf", out)
    assert not out.exists()


def test_file_of_another_model_is_refused(llama, tiny_gguf, tmp_path):
    mix = Mix({"one": random_steer(llama)}, {"one": 1.0})
    with pytest.raises(ModelError, match="belongs to another model"):
        export_gguf(llama, mix, tiny_gguf, tmp_path / "steered.gguf")


def test_architecture_without_an_output_tensor_is_refused(lm, mix, tmp_path, monkeypatch):
    source = write_gguf(tmp_path / "other.gguf")
    tensors = gguf_format.MODEL_TENSORS[gguf_format.MODEL_ARCH.LLAMA]
    without = [tensor for tensor in tensors if tensor != gguf_format.MODEL_TENSOR.OUTPUT]
    monkeypatch.setitem(gguf_format.MODEL_TENSORS, gguf_format.MODEL_ARCH.LLAMA, without)
    with pytest.raises(ModelError, match="have no output tensor"):
        export_gguf(lm, mix, source, tmp_path / "steered.gguf")


def test_only_an_earlier_export_is_overwritten(lm, mix, tiny_gguf, tmp_path):
    base = tmp_path / "base.gguf"
    shutil.copy(tiny_gguf, base)
    (tmp_path / "thesis.txt").write_text("years of work")
    for out in (base, tmp_path / "thesis.txt"):
        with pytest.raises(SteerError, match="choose another --out"):
            export_gguf(lm, mix, base, out)
    with pytest.raises(OutputError, match="it is a folder"):
        export_gguf(lm, mix, base, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert base.read_bytes() == tiny_gguf.read_bytes()
    older = export_gguf(lm, mix, base, tmp_path / "steered.gguf")
    assert export_gguf(lm, mix, base, older) == older
