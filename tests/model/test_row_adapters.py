"""Adapters row by row: each row is what the model with its adapter alone writes; rows without one stay as they are."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import ModelError
from lmsteer.generation.batch import Batch
from lmsteer.model.kv_cache import Start
from lmsteer.model.lora import LoRAFactors, body_layers, linear_layers, lora_attached
from lmsteer.model.row_adapters import RowAdapter, _changed, _Group, constant_addition, lora_additions


def factors_of(lm, names, seed):
    drawn = torch.Generator().manual_seed(seed)

    def sized(name):
        module = lm.model.get_submodule(name)
        m, n = module.weight.T.shape if type(module).__name__ == "Conv1D" else module.weight.shape
        return LoRAFactors(torch.randn(3, n, generator=drawn) / 4, torch.randn(m, 3, generator=drawn) / 4)

    return {name: sized(name) for name in names}


@torch.inference_mode()
def logits_of(lm, starts, tokens=3):
    """The logits (B, V) of some steps, each after a fixed token, of rows that are read and written side by side."""
    batch, found = Batch(lm, prefill_chunk=8), []
    list(batch.prefill(starts))
    for token in range(4, 4 + tokens):
        found.append(batch.forward(torch.full((len(starts),), token)))
        batch.advance()
    return torch.stack(found, 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3_text"])
def test_each_row_has_its_own_adapter_and_the_others_none(make_lm, family):
    lm = make_lm(family)
    ids = [[3, 5, 7, 9, 4], [6, 2, 8], [9, 9, 2, 5, 6, 7], [4, 3], [5, 8, 8, 3]]
    layers = [factors_of(lm, body_layers(lm), seed) for seed in (0, 1)]
    adapters = [RowAdapter(lora_additions(lm, each)) for each in layers]
    weaker = RowAdapter(adapters[0].additions, -0.5)
    own = [None, adapters[0], weaker, None, adapters[1]]
    mixed = logits_of(lm, [Start(row, adapter=adapter) for row, adapter in zip(ids, own, strict=True)])
    plain = logits_of(lm, [Start(row) for row in ids])
    assert torch.equal(mixed[[0, 3]], plain[[0, 3]])
    for place, factors, strength in ((1, layers[0], 1.0), (2, layers[0], -0.5), (4, layers[1], 1.0)):
        with lora_attached(lm.model, factors, strength):
            (alone,) = logits_of(lm, [Start(ids[place])])
        torch.testing.assert_close(mixed[place], alone, rtol=1e-4, atol=1e-4)  # float32
        assert not torch.allclose(mixed[place], plain[place], atol=1e-2)


def test_rows_that_come_go_and_fail_keep_their_adapters(llama):
    additions = lora_additions(llama, factors_of(llama, body_layers(llama), 0))
    starts = [Start([5, 6, 7, 8]), Start([5, 6, 7, 8], adapter=RowAdapter(additions)), Start([5, 6, 7, 8])]
    whole = logits_of(llama, starts)
    assert not torch.allclose(whole[0], whole[1], atol=1e-2)  # one prompt, read once for each adapter
    batch, token = Batch(llama), torch.full((3,), 4)
    with torch.inference_mode():
        list(batch.prefill(starts))
        parts = torch.cat([batch.forward(token[:1], 0), batch.forward(token[:2], 1)])
        torch.testing.assert_close(parts, whole[:, 0], rtol=1e-4, atol=1e-4)  # float32
        batch.advance()
        batch.remove(0)  # the last row takes its place
        torch.testing.assert_close(batch.forward(token[:2] + 1), whole[[2, 1], 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("places", [None, [0, 2]], ids=["all rows", "some rows"])
def test_the_first_layer_of_a_device_may_have_its_input_on_another(places):
    """The meta device stands for the layer's own."""
    x, y = torch.zeros(3, 2, 4), torch.zeros(3, 2, 4, device="meta")
    group = _Group({}, None if places is None else torch.tensor(places), torch.ones(len(places or x)))
    changed = _changed(x, y, group, constant_addition(torch.ones(4, device="meta")))
    assert (changed.device, changed.shape) == (y.device, y.shape)


def test_strengths_of_half_precision_models_are_not_rounded():
    """Rounded once, 0.05 · 1.0078125 is another number than with the strength in bfloat16."""
    y, direction = torch.zeros(2, 1, 1, dtype=torch.bfloat16), torch.tensor([1.0078125]).bfloat16()
    changed = _changed(y, y, _Group({}, None, torch.tensor([0.05, 1.0])), constant_addition(direction))
    assert changed.dtype == torch.bfloat16
    assert changed.flatten().tolist() == [0.05029296875, 1.0078125]


def test_the_head_is_nobodys_alone(llama):
    head = [name for name, module in linear_layers(llama.model).items() if module is llama.head.module]
    with pytest.raises(ModelError, match="of the head cannot be one row's alone"):
        lora_additions(llama, factors_of(llama, head, 0))
