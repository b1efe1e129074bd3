"""Products with weights: what torch's own are, for any shape, layout, dtype and gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmsteer.model import onednn as products
from lmsteer.model.onednn import Linear, linear, use_onednn
from tiny import FAMILIES, tiny_model

# float32 sums of at most 40 terms of size one, in two orders.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
size = st.integers(1, 40)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=3), size, size, st.booleans(), st.booleans(), st.booleans())
def test_a_product_is_torchs_own(shape, m, n, with_bias, weight_by_columns, x_by_columns):
    random = torch.Generator().manual_seed(m * 41 + n)
    x = torch.randn(*shape, m, generator=random)
    x = x.transpose(0, -1).contiguous().transpose(0, -1) if x_by_columns else x
    weight = torch.randn(m, n, generator=random).T if weight_by_columns else torch.randn(n, m, generator=random)
    bias = torch.randn(n, generator=random) if with_bias else None
    ours, theirs = linear(x, weight, bias), nn.functional.linear(x, weight, bias)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_a_compiled_product_is_torchs_own():
    # inductor takes oneDNN's operator for constant weights only, and fails on others.
    graphs = []
    compiled = torch.compile(linear, backend=lambda graph, _: graphs.append(graph.code) or graph.forward)
    x, weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.eye(4, 7)
    torch.testing.assert_close(compiled(x, weight), x @ weight.T, **TOLERANCE)
    assert "mkldnn" not in "".join(graphs)


@pytest.mark.skipif(not products._HAS_ONEDNN, reason="this torch has no oneDNN on this processor")
def test_float32_on_a_cpu_goes_to_onednn_and_nothing_else_does(monkeypatch):
    asked = []
    monkeypatch.setattr(products, "onednn_linear", lambda x, *_: asked.append(x.dtype) or x)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        linear(torch.ones(2, 3, dtype=dtype), torch.ones(3, 3, dtype=dtype))
    with torch.autocast("cpu"):
        linear(torch.ones(2, 3), torch.ones(3, 3))
    assert asked == [torch.float32]


@pytest.mark.parametrize("trains_weight", [False, True])
def test_gradients_are_torchs_own(trains_weight):
    found = []
    for product in (linear, nn.functional.linear):
        torch.manual_seed(0)
        x, weight = torch.randn(3, 5, 8, requires_grad=True), torch.randn(7, 8, requires_grad=trains_weight)
        product(x, weight, torch.randn(7)).square().sum().backward()
        found.append([x.grad, weight.grad])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)  # sums of squares, of size 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quickened_model_is_the_same_model(family, tmp_path):
    plain, quick = tiny_model(family), tiny_model(family)
    use_onednn(quick)
    ids = torch.arange(1, 9)[None]
    assert any(isinstance(module, Linear) for module in quick.modules())
    torch.testing.assert_close(quick(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)  # float32, another order
    values = quick.state_dict()
    assert {name for name, value in plain.state_dict().items() if not torch.equal(value, values[name])} == set()
    quick.save_pretrained(tmp_path)
    saved = type(plain).from_pretrained(tmp_path).state_dict()
    assert {name for name, value in plain.state_dict().items() if not torch.equal(value, saved[name])} == set()


def test_other_layers_stay_as_they_are():
    class Own(nn.Linear):
        """A layer of somebody else, a quantised one, say."""

    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.__class__ = Own
    use_onednn(model)
    assert type(model.model.layers[0].mlp.up_proj) is Own
    assert model.get_output_embeddings().weight.is_contiguous()
