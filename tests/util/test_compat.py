"""Private interfaces of libraries: each is still what lmsteer takes it for."""

from __future__ import annotations

import inspect
import platform
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from torch import nn
from transformers import AutoModelForCausalLM, TrainingArguments

from lmsteer.util import compat
from tiny import tiny_model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_cache_goes_in_and_comes_out_under_its_name(family):
    model = tiny_model(family)
    ids = torch.arange(1, 5)[None]
    assert compat.CACHE in inspect.signature(model.model.forward if family == "llama" else model.forward).parameters
    first = model(input_ids=ids[:, :3], use_cache=True)
    step = model(input_ids=ids[:, 3:], attention_mask=torch.ones_like(ids), **{compat.CACHE: first[compat.CACHE]})
    torch.testing.assert_close(step.logits[:, -1], model(input_ids=ids).logits[:, -1], rtol=1e-4, atol=1e-5)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="NOTHING"):
        compat.NOTHING  # noqa: B018


def test_a_standalone_generation_config_takes_nothing_from_the_models_own():
    model = tiny_model("llama")
    model.generation_config.update(repetition_penalty=9.0, suppress_tokens=[5], max_length=7)
    config = compat.standalone_generation_config(max_new_tokens=3, do_sample=False)
    used, rest = model._prepare_generation_config(config, input_ids=torch.ones(1, 1))
    assert (used.max_new_tokens, used.suppress_tokens, used.do_sample) == (3, None, False)
    assert used.repetition_penalty in (None, 1.0)
    assert used.num_beams == 1  # transformers' own defaults are filled in
    assert list(rest) == ["input_ids"]


def test_recurrent_models_are_told_from_others():
    assert compat.is_recurrent(tiny_model("mamba"))
    assert not compat.is_recurrent(tiny_model("llama"))


def test_an_untied_head_is_saved_as_a_tensor_of_its_own(tmp_path):
    model = tiny_model("gpt2")
    keys = model._tied_weights_keys
    assert model.config.tie_word_embeddings
    with compat.untied(model):
        model.get_output_embeddings().weight = nn.Parameter(model.get_input_embeddings().weight.detach() + 1)
        model.save_pretrained(tmp_path)
    assert model.config.tie_word_embeddings
    assert model._tied_weights_keys == keys
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    difference = saved.get_output_embeddings().weight - saved.get_input_embeddings().weight
    torch.testing.assert_close(difference, torch.ones_like(difference))


def test_replaced_parameters_take_gradients_and_keep_their_order():
    module = nn.Linear(3, 2)
    weight, change = module.weight, torch.ones(2, 3, requires_grad=True)
    compat.replace_parameter(module, "weight", weight.detach() + change)
    module(torch.ones(1, 3)).sum().backward()
    assert torch.equal(change.grad, torch.ones(2, 3))
    compat.replace_parameter(module, "weight", weight)
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]
    assert module.weight is weight


def test_the_trainer_uses_one_gpu_at_most(tmp_path):
    arguments = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    for visible, used in ((0, 0), (1, 1), (4, 1)):
        arguments._n_gpu = visible
        compat.use_one_gpu(arguments)
        assert arguments.n_gpu == used


def test_the_folder_of_a_cached_model(tmp_path):
    assert compat.hub_cache_folder("org/name", tmp_path) == tmp_path / "models--org--name"
    assert str(compat.hub_cache_folder("name")).startswith(constants.HF_HUB_CACHE)


def test_short_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert compat.is_out_of_memory(caught.value)
    assert compat.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert compat.is_out_of_memory(MemoryError())
    assert not compat.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not compat.is_out_of_memory(ValueError("CUDA out of memory."))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN is for these processors")
def test_onednn_multiplies_as_torch_does():
    assert compat.has_onednn_linear()
    x, weight, bias = torch.randn(3, 5), torch.randn(4, 5), torch.randn(4)
    for w in (weight, weight.T.contiguous().T):
        torch.testing.assert_close(compat.onednn_linear(x, w, bias), torch.nn.functional.linear(x, w, bias))


def test_importing_it_loads_no_library():
    code = "import sys, lmsteer.util.compat; print({'torch', 'transformers', 'accelerate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_weights_of_torchao_are_quantised(monkeypatch):
    class Int8(torch.Tensor):
        pass

    plain = torch.zeros(2, 2)
    assert not any(map(compat.is_quantised, (plain, nn.Parameter(plain), plain.as_subclass(Int8))))
    monkeypatch.setattr(Int8, "__module__", "torchao.quantization")
    assert compat.is_quantised(nn.Parameter(plain.as_subclass(Int8)))
