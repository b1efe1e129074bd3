"""LoRA: gradients of the product, two ways to apply it, and where its factors live."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.model.lora import (
    LoRA,
    LoRAFactors,
    add_lora,
    body_layers,
    from_tensors,
    lora_attached,
    lora_installed,
    to_tensors,
)
from tiny import tiny_lm

sizes = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(rows=sizes, columns=sizes, outputs=sizes, rank=sizes, seed=st.integers(0, 99), by_row=st.booleans())
def test_values_and_gradients_are_those_of_the_formula(rows, columns, outputs, rank, seed, by_row):
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, rows, outputs), (2, rows, columns), (rank, columns), (outputs, rank)]
    y, x, a, b = (torch.randn(shape, generator=random, requires_grad=True) for shape in shapes)
    scale = torch.tensor([0.5, -3.0]) if by_row else 2.0
    along = torch.randn(y.shape, generator=random)
    spread = scale[:, None, None] if by_row else scale
    expected, found = y + spread * ((x @ a.T) @ b.T), add_lora(y, x, a, b, scale)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, other orders of sums
    gradients = zip(*(torch.autograd.grad(out, [y, x, a, b], along) for out in (found, expected)), strict=True)
    for one, other in gradients:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_scale_of_zero_leaves_a_row_bit_for_bit():
    random = torch.Generator().manual_seed(0)
    y, x, a, b = (torch.randn(s, generator=random) for s in ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2)))
    found = add_lora(y, x, a, b, torch.tensor([0.0, 1.0]))
    assert torch.equal(found[0], y[0])
    assert not torch.allclose(found[1], y[1], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_layer_keeps_its_dtype(dtype):
    y, x = torch.randn(3, 4, dtype=dtype), torch.randn(3, 5, dtype=dtype, requires_grad=True)
    a, b = torch.randn(2, 5, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    found = add_lora(y, x, a, b, 2.0)
    (of_x,) = torch.autograd.grad(found.sum(), x)
    assert (found.dtype, of_x.dtype) == (dtype, dtype)
    torch.testing.assert_close(found.float(), (y + 2 * (x.float() @ a.T) @ b.T).float(), rtol=2e-2, atol=5e-2)


def test_strengths_of_half_precision_models_are_not_rounded():
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    found = add_lora(0 * one, 1.0078125 * one, one, one, torch.tensor([0.05]))
    assert (found.dtype, found.item()) == (torch.bfloat16, 0.05029296875)


def random_factors(lm, seed=0):
    drawn, lora = torch.Generator().manual_seed(seed), LoRA(lm, body_layers(lm), 2, seed)
    for factor in lora.parameters():
        factor.data = torch.randn(factor.shape, generator=drawn) / 8
    return lora.factors()


def test_a_new_lora_changes_nothing(llama):
    ids = torch.arange(3, 9)[None]
    plain = llama.model(ids).logits
    with torch.no_grad(), LoRA(llama, body_layers(llama), 2, seed=0).attached():
        assert torch.equal(llama.model(ids).logits, plain)


def test_factors_are_stored_under_the_names_of_peft(llama):
    layers = random_factors(llama)
    tensors = to_tensors(layers)
    assert {name.rpartition(".")[2] for name in tensors} == {"lora_A", "lora_B"}
    assert all(
        torch.equal(a, b) for key in layers for a, b in zip(layers[key], from_tensors(tensors)[key], strict=True)
    )
    name = next(iter(layers))
    for wrong in (torch.zeros(48, 3), None):
        odd = {**tensors, f"{name}.lora_B": wrong} if wrong is not None else dict([*tensors.items()][1:])
        with pytest.raises(DataError, match="two factors of each of its layers"):
            from_tensors(odd)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@torch.no_grad()
def test_merged_and_beside_are_the_same_in_float32(make_lm, family):
    lm = make_lm(family)
    layers, ids = random_factors(lm), torch.arange(3, 9)[None]
    name = f"{next(iter(layers))}.weight"
    original = lm.model.get_parameter(name)
    with lora_attached(lm.model, layers):
        assert dict(lm.model.named_parameters())[name] is original
        beside = lm.model(ids).logits
    with lora_installed(lm.model, layers):
        assert dict(lm.model.named_parameters())[name] is not original  # merged: faster on a CPU
        torch.testing.assert_close(lm.model(ids).logits, beside, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lm.model(ids).logits, beside, atol=1e-2)


@torch.no_grad()
def test_in_half_precision_no_weight_is_copied():
    """An update merged into bfloat16 weights would round to their precision; beside them it keeps its own."""
    lm = tiny_lm("llama", torch.bfloat16)
    layers, ids = random_factors(lm), torch.arange(3, 9)[None]
    before = dict(lm.model.named_parameters())
    with lora_attached(lm.model, layers):
        beside = lm.model(ids).logits
    with lora_installed(lm.model, layers):
        assert all(parameter is before[name] for name, parameter in lm.model.named_parameters())
        assert torch.equal(lm.model(ids).logits, beside)


def test_factors_follow_the_device_of_their_layer():
    """The meta device stands in for a second one: a product of tensors on two devices is an error."""
    lm = tiny_lm("llama")
    away = lm.model.model.layers[1].mlp.up_proj.to("meta")
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    lora = LoRA(lm, names, 2, seed=0)
    assert [a.device.type for a in lora.lora_A] == [b.device.type for b in lora.lora_B] == ["cpu", "meta"]
    layers = {name: LoRAFactors(torch.ones(2, 32), torch.ones(48, 2)) for name in names}
    with lora_attached(lm.model, layers, torch.tensor([1.0, 2.0])):
        assert away(torch.ones(2, 3, 32, device="meta")).device.type == "meta"
        assert lm.model.model.layers[0].mlp.up_proj(torch.ones(2, 3, 32)).device.type == "cpu"


def test_a_model_without_the_layers_is_refused(llama):
    factors = LoRAFactors(torch.zeros(2, 32), torch.zeros(32, 2))
    for name, message in (("model.layers.9.q", "does not have the layers"), ("lm_head", r"for a layer of \(32, 32\)")):
        with pytest.raises(WrongBaseError, match=message), lora_attached(llama.model, {name: factors}):
            pass


def test_a_quantised_layer_is_refused():
    lm = tiny_lm("llama")
    layer = lm.model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match="load the model unquantised"):
        LoRA(lm, ["model.layers.0.self_attn.q_proj"], 2, seed=0)
