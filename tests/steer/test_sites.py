"""Sites inside a model: found by types and shapes in every family, and steered as a LoRA of them would."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.errors import SteerError
from lmsteer.evaluation.mix_report import mix_report
from lmsteer.export.gguf import export_gguf
from lmsteer.model.lora import LoRAFactors, lora_attached
from lmsteer.reading.components import components
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.steer.algebra import merge, overlaps
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import all_sites, find_site, match_sites, model_layers
from lmsteer.steer.steer import Steer
from lmsteer.transferring.transfer import transfer
from tiny import FAMILIES, inner_steer, random_steer, styled, tiny_lm

IDS = torch.arange(12).reshape(3, 4)


@torch.inference_mode()
def logits(lm, ids=IDS):
    return lm.model(input_ids=ids, use_cache=False).logits


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def lm(request):
    return tiny_lm(request.param)


def test_every_family_has_a_stream_after_each_layer_and_linear_layers(lm):
    sites = all_sites(lm.model)
    streams = [site for site in sites.values() if not site.is_weight]
    assert [site.name for site in streams] == ["layers.0", "layers.1"]
    assert all((site.inputs, site.outputs) == (32, 32) for site in streams)
    assert all(lm.model.get_submodule(site.path) is site.module for site in sites.values())
    assert any(site.is_weight for site in sites.values())


def test_a_steer_of_linear_layers_is_their_lora(lm):
    sites = [site for site in all_sites(lm.model).values() if site.is_weight]
    steer = inner_steer(lm, [site.name for site in sites])
    layers = {site.path: LoRAFactors(steer.inner[site.name].a.T, steer.inner[site.name].b) for site in sites}
    with lm.steered(Mix({"s": steer}, {"s": [0.5, -2.0, 0.0]})):
        found = logits(lm)
    with lora_attached(lm.model, layers, torch.tensor([0.5, -2.0, 0.0])):
        expected = logits(lm)
    assert not torch.allclose(found[:2], logits(lm)[:2], atol=1e-3)
    # float32: the products are taken in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_steer_of_the_stream_changes_what_later_layers_read(lm):
    steer = inner_steer(lm, ["layers.0"])
    a, b = steer.inner["layers.0"]

    def move(_, args, output):
        y = output[0] if isinstance(output, tuple) else output
        moved = y + 1.5 * (y @ a) @ b.T
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    with lm.steered(Mix({"s": steer}, {"s": 1.5})):
        found = logits(lm)
    hook = model_layers(lm.model)[0].register_forward_hook(move)
    expected = logits(lm)
    hook.remove()
    assert not torch.allclose(found, logits(lm), atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_strength_of_zero_is_the_model_itself_bit_for_bit(lm):
    steer = inner_steer(lm, [*all_sites(lm.model)])
    with lm.steered(Mix({"s": steer}, {"s": 0.0})):
        assert torch.equal(logits(lm), logits(lm))
    plain = logits(lm)
    with lm.steered(Mix({"s": steer}, {"s": [0.0, 3.0, 0.0]})):
        found = logits(lm)
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(found[1], plain[1], atol=1e-3)


strengths = st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), strengths), min_size=1, max_size=3))
def test_several_steers_are_their_sum_whichever_sites_each_has(llama, parts):
    sites = [["layers.0"], ["layers.0", "layers.1.mlp.down_proj"], []]
    steers = [inner_steer(llama, sites[kind], seed=k, head=True) for k, (kind, _) in enumerate(parts)]
    mix = Mix({f"s{k}": steer for k, steer in enumerate(steers)}, {f"s{k}": own for k, (_, own) in enumerate(parts)})
    with llama.steered(mix):
        together = logits(llama)
    with ExitStack() as stack:
        for steer, (_, own) in zip(steers, parts, strict=True):
            stack.enter_context(llama.steered(Mix({"same": steer}, {"same": own})))
        apart = logits(llama)
    rows = torch.cat([_alone(llama, mix.for_rows(torch.tensor([row])), row) for row in range(3)])
    # float32: the sums are taken in another order.
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-4 * float(together.abs().max()))
    torch.testing.assert_close(rows, together, rtol=1e-3, atol=1e-4 * float(together.abs().max()))


def _alone(lm, mix, row):
    with lm.steered(mix):
        return logits(lm, IDS[row : row + 1])


def test_patterns_name_sites_in_the_order_of_the_model(llama):
    named = [site.name for site in match_sites(llama.model, ["layers.1", "layers.*.mlp.down_proj"])]
    assert named == ["layers.0.mlp.down_proj", "layers.1", "layers.1.mlp.down_proj"]
    with pytest.raises(SteerError, match=r"no site of LlamaForCausalLM matches 'layers.\*.foo'.*layers.N.mlp.up_proj"):
        match_sites(llama.model, ["layers.0", "layers.*.foo"])
    with pytest.raises(SteerError, match=r"layers\.0 to layers\.1"):
        find_site(llama.model, "layers.2")


def test_a_layer_that_shares_its_weight_is_no_site():
    lm = tiny_lm("llama")
    first, second = (layer.mlp for layer in model_layers(lm.model))
    second.down_proj.weight = first.down_proj.weight
    assert not any("down_proj" in name for name in all_sites(lm.model))


def test_a_steer_of_other_widths_or_sites_is_refused(llama):
    steer = inner_steer(llama, ["layers.0.mlp.down_proj"])
    factors = {name.replace("layers.0", "layers.7"): factor for name, factor in steer.factors.items()}
    with pytest.raises(SteerError, match=r"no site .layers\.7\.mlp\.down_proj."):
        llama.steered(Mix({"s": Steer("multiply", factors, 32, 259, steer.card)}, {"s": 1.0}))
    factors = {name.replace("mlp.down_proj", "mlp.up_proj"): factor for name, factor in steer.factors.items()}
    with pytest.raises(SteerError, match="maps 48 values to 32 at"):
        llama.steered(Mix({"s": Steer("multiply", factors, 32, 259, steer.card)}, {"s": 1.0}))


@pytest.mark.parametrize(
    "names",
    [("layers.0.A",), ("layers.0.B",), ("layer.0.A", "layer.0.B"), ("layers.x.A", "layers.x.B"), ("layers.A",)],
)
def test_factors_under_wrong_names_are_refused(llama, names):
    steer = random_steer(llama)
    factors = {**steer.factors, **{name: torch.zeros(32, 2) for name in names}}
    with pytest.raises(SteerError, match="has factors"):
        Steer("multiply", factors, 32, 259, steer.card)


def test_factors_of_a_site_have_one_rank(llama):
    steer = random_steer(llama)
    factors = {**steer.factors, "layers.0.A": torch.zeros(32, 2), "layers.0.B": torch.zeros(32, 3)}
    with pytest.raises(SteerError, match="have ranks 2 and 3"):
        Steer("multiply", factors, 32, 259, steer.card)


def test_sites_need_the_form_multiply(llama):
    steer = random_steer(llama, "add")
    factors = {**steer.factors, "layers.0.A": torch.zeros(32, 2), "layers.0.B": torch.zeros(32, 2)}
    with pytest.raises(SteerError, match="form add has factors"):
        Steer("add", factors, 32, 259, steer.card)


def test_what_is_known_of_the_head_alone_is_refused(llama):
    steer = inner_steer(llama, ["layers.0"], head=True)
    mix = Mix({"s": steer}, {"s": 1.0})
    rows = LabelledRows.join(list(gather_rows(llama, styled(3), llama.encode([text.text for text in styled(3)]))))
    refused = [
        lambda: components(llama, mix),
        lambda: steer.truncated(1),
        lambda: overlaps([steer], None),
        lambda: measure_held_out(llama, rows, steer),
        lambda: export_gguf(llama, mix, Path("x"), Path("y")),
        lambda: transfer(llama, steer, llama, texts=["a"]),
    ]
    for use in refused:
        with pytest.raises(SteerError, match=r"a steer that acts on the head alone; .* acts at layers\.0"):
            use()


def test_a_mix_of_steers_inside_the_model_has_no_cosines(llama):
    mix = Mix({"a": inner_steer(llama, ["layers.0"]), "b": random_steer(llama)}, {"a": 1.0, "b": 2.0})
    report = mix_report(mix, None)
    assert (report.strengths, report.cosines) == ({"a": 1.0, "b": 2.0}, None)
    merged = merge(mix, "both")
    with llama.steered(mix):
        expected = logits(llama)
    with llama.steered(Mix({"s": merged}, {"s": 1.0})):
        torch.testing.assert_close(logits(llama), expected, rtol=1e-4, atol=1e-4)  # float32, another order


def test_a_scaled_steer_is_the_steer_at_another_strength(llama):
    steer = inner_steer(llama, ["layers.0", "layers.1.self_attn.o_proj"])
    with llama.steered(Mix({"s": steer}, {"s": 2.0})):
        expected = logits(llama)
    with llama.steered(Mix({"s": steer.scaled(2.0)}, {"s": 1.0})):
        torch.testing.assert_close(logits(llama), expected, rtol=1e-5, atol=1e-5)
