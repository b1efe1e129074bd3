"""What SGLang's own code reads of a LoRA that is exported. `make test-sglang` runs these.

SGLang has no build for CPUs, so its server is not run: only the code that reads adapters is, in the place of which the
parts that need a GPU are empty.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lmsteer.export.peft import export_lora
from lmsteer.steer.mix import Mix
from tiny import inner_steer

SOURCE = os.environ.get("SGLANG_SOURCE", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="SGLang's source is fetched by make test-sglang")

# Packages without their own beginning, which would start the engine; and what its adapter code names of the rest.
PACKAGES = ("", "srt", "srt.lora", "srt.layers", "srt.configs", "srt.model_loader", "srt.model_executor", "srt.utils")
EMPTY = {
    "srt.configs.load_config": "LoadConfig",
    "srt.lora.backend.base_backend": "BaseLoRABackend",
    "srt.model_loader.loader": "DefaultModelLoader",
    "srt.utils.hf_transformers_utils": "AutoConfig",
    "srt.model_executor.forward_batch_info": "ForwardBatch",
}


@pytest.fixture
def sglang(monkeypatch):
    """SGLang's modules of adapters."""

    def put(name, **contents):
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    for package in PACKAGES:
        name = f"sglang.{package}".strip(".")
        put(name, __path__=[str(Path(SOURCE, *name.split(".")))])
    for module, wanted in EMPTY.items():
        put(f"sglang.{module}", **{wanted: type(wanted, (), {})})
    put(
        "sglang.srt.layers.utils",
        get_layer_id=lambda name: int(name.split("layers.")[1].split(".")[0]) if "layers." in name else None,
    )
    yield SimpleNamespace(
        **vars(importlib.import_module("sglang.srt.lora.lora_config")),
        LoRAAdapter=importlib.import_module("sglang.srt.lora.lora").LoRAAdapter,
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        del sys.modules[name]


def read(sglang, lm, folder):
    """An adapter as SGLang has it after reading the folder."""
    config = sglang.LoRAConfig(str(folder))
    adapter = sglang.LoRAAdapter("steer", config, lm.model.config, None, None)
    adapter.initialize_weights_from_tensors(load_file(folder / "adapter_model.safetensors"))
    return adapter


def test_every_factor_of_a_steer_is_read_as_it_is_written(llama, sglang, tmp_path):
    sites = [f"layers.{n}.{path}" for n in (0, 1) for path in ("self_attn.o_proj", "mlp.down_proj")]
    steer = inner_steer(llama, sites, head=True)
    folder = export_lora(llama, Mix({"s": steer}, {"s": 1.5}), tmp_path / "lora")
    adapter, written = read(sglang, llama, folder), load_file(folder / "adapter_model.safetensors")
    kept = {**adapter.embedding_layers, **{k: v for layer in adapter.layers for k, v in layer.weights.items()}}
    assert kept.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(kept[name], tensor)
        # It makes room for one rank, that of the config.
        assert adapter.config.r == (tensor.shape[0] if "lora_A" in name else tensor.shape[1])
    assert adapter.scaling == 1
    assert len(adapter.embedding_layers) == 2
    assert {"lm_head", "o_proj", "down_proj"} == {name.split(".")[-1] for name in adapter.config.target_modules}


def test_query_key_and_value_are_read_together(llama, sglang, tmp_path):
    steer = inner_steer(llama, [f"layers.0.self_attn.{path}_proj" for path in "qkv"])
    folder = export_lora(llama, Mix({"s": steer}, {"s": 1.0}), tmp_path / "lora")
    weights, written = read(sglang, llama, folder).layers[0].weights, load_file(folder / "adapter_model.safetensors")
    for factor in ("lora_A", "lora_B"):
        (stacked,) = [tensor for name, tensor in weights.items() if factor in name]
        parts = [next(t for name, t in written.items() if f"{path}_proj.{factor}" in name) for path in "qkv"]
        assert torch.equal(stacked, torch.cat(parts))
