"""A steer is a LoRA on the head, exactly; a LoRA on the head is the nearest steer, and what is left over."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lmsteer.errors import SteerError, WrongBaseError
from lmsteer.export import peft as module
from lmsteer.export.peft import _solve, export_lora, head_name, import_lora, write_lora
from lmsteer.model.head import HeadWeight
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import all_sites
from lmsteer.steer.steer import Steer
from tiny import FAMILIES, inner_steer, random_steer, tiny_model

peft = pytest.importorskip("peft", reason="the extra 'methods' is not installed")
IDS = torch.arange(3, 15).reshape(2, 6)


def loaded(family, folder):
    """The LoRA on a fresh model, by PEFT alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied heads, which only merging would touch
        return peft.PeftModel.from_pretrained(tiny_model(family), str(folder))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mamba"}))
def test_plain_peft_gives_the_steered_logits(make_lm, tmp_path, family):
    lm = make_lm(family)
    mix = Mix({"a": random_steer(lm, seed=1), "b": random_steer(lm, seed=2)}, {"a": 1.5, "b": -0.5})
    model = loaded(family, export_lora(lm, mix, tmp_path / "lora"))
    with torch.inference_mode():
        with lm.steered(mix):
            expected = lm.model(IDS).logits
        found, plain = model(input_ids=IDS).logits, lm.model(IDS).logits
    # float32: E (B x) in place of (E B) x
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"mamba"}))
@pytest.mark.parametrize("head", [False, True])
def test_plain_peft_gives_the_logits_of_a_steer_inside_the_model(make_lm, tmp_path, family, head):
    lm = make_lm(family)
    sites = [site.name for site in all_sites(lm.model).values() if site.is_weight]
    mix = Mix(
        {"a": inner_steer(lm, sites, 2, seed=1, head=head), "b": inner_steer(lm, sites[:2], 3, seed=2)},
        {"a": 1.5, "b": -0.5},
    )
    model = loaded(family, export_lora(lm, mix, tmp_path / "lora"))
    with torch.inference_mode():
        with lm.steered(mix):
            expected = lm.model(IDS).logits
        found, plain = model(input_ids=IDS).logits, lm.model(IDS).logits
    # float32: the products are taken in another order.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(found, plain, atol=1e-2)
    back = import_lora(lm, tmp_path / "lora", "back")
    assert back.residual < 1e-4
    with torch.inference_mode(), lm.steered(Mix({"s": back.steer}, {"s": 1.0})):
        torch.testing.assert_close(lm.model(IDS).logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_lora_is_written_without_the_weights_of_the_layers(make_lm, tmp_path, family):
    lm = make_lm(family)
    weights = [site.name for site in all_sites(lm.model).values() if site.is_weight]
    mix = Mix({"s": inner_steer(lm, weights[::3], head=True)}, {"s": 1.5})
    whole = export_lora(lm, mix, tmp_path / "whole")
    with torch.device("meta"):
        skeleton = type(lm.model)(lm.model.config)
    part = write_lora(HeadWeight(lm.name, head_name(lm), lm.head.weight), skeleton, mix, tmp_path / "part")
    for file in sorted(each.name for each in whole.iterdir()):
        assert (whole / file).read_bytes() == (part / file).read_bytes()


def test_a_steer_of_the_stream_is_no_lora(llama, tmp_path):
    with pytest.raises(SteerError, match=r"on the stream, at layers\.0: fit it at linear layers"):
        export_lora(llama, Mix({"s": inner_steer(llama, ["layers.0"])}, {"s": 1.0}), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_steer_comes_back_from_its_lora(llama, tmp_path):
    steer = random_steer(llama)
    nearest = import_lora(llama, export_lora(llama, Mix({"s": steer}, {"s": 2.0}), tmp_path / "lora"), "back")
    assert nearest.residual < 1e-5
    torch.testing.assert_close(nearest.steer.matrix(), 2 * steer.matrix(), rtol=1e-4, atol=1e-5)
    assert nearest.steer.card.fit["method"] == "lora"


def test_residual_is_the_part_that_no_steer_can_have(llama, tmp_path):
    """Half of the update lies within what E spans, and half is orthogonal to it."""
    folder = export_lora(llama, Mix({"s": random_steer(llama)}, {"s": 1.0}), tmp_path / "lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    (key,) = (key for key in tensors if "lora_B" in key)
    e, up = llama.head.weight.float(), tensors[key]
    noise = torch.randn(up.shape, generator=torch.Generator().manual_seed(0))
    noise -= e @ torch.linalg.lstsq(e, noise).solution
    down = next(tensors[key] for key in tensors if "lora_A" in key)
    noise *= (up @ down).norm() / (noise @ down).norm()
    save_file({**tensors, key: up + noise}, folder / "adapter_model.safetensors")
    assert import_lora(llama, folder, "x").residual == pytest.approx(0.5**0.5, rel=1e-3)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=20, deadline=None)
def test_nearest_steer_is_the_least_squares_solution(seed, dependent):
    """Also where columns of E depend on others: then the solution of least norm."""
    g = torch.Generator().manual_seed(seed)
    e, lora_b = (torch.randn(50, n, generator=g, dtype=torch.float64) for n in (8, 3))
    if dependent:
        e[:, 5] = e[:, 1] - 2 * e[:, 0]
    expected = torch.linalg.lstsq(e, lora_b, driver="gelsd").solution
    torch.testing.assert_close(_solve(e.T @ e, e.T @ lora_b), expected, rtol=1e-6, atol=1e-8)


def test_head_is_converted_to_float64_on_the_cpu_and_in_parts(llama, tmp_path, monkeypatch):
    """Not every device has float64, and of a large head not all of it fits in memory."""
    folder = export_lora(llama, Mix({"s": random_steer(llama)}, {"s": 2.0}), tmp_path / "lora")
    expected = import_lora(llama, folder, "x")
    shapes, double = [], torch.Tensor.double

    def noting(tensor):
        shapes.append(tuple(tensor.shape))
        return double(tensor)

    monkeypatch.setattr(module, "_ROWS", 100)
    monkeypatch.setattr(torch.Tensor, "double", noting)
    nearest = import_lora(llama, folder, "x")
    assert tuple(llama.head.weight.shape) not in shapes
    torch.testing.assert_close(nearest.steer.matrix(), expected.steer.matrix(), rtol=1e-5, atol=1e-6)


def test_anything_but_a_lora_on_the_head_is_refused(llama, make_lm, tmp_path):
    steer = random_steer(llama)
    offset = Steer("offset", {"o": torch.ones(steer.vocabulary)}, steer.hidden_size, steer.vocabulary, steer.card)
    for mix in (Mix({"o": offset}, {"o": 1.0}), Mix({"s": steer}, {"s": [1.0, 2.0]}), Mix({}, {})):
        with pytest.raises(SteerError, match="form multiply, with one strength"):
            export_lora(llama, mix, tmp_path / "lora")
    mix = Mix({"s": steer}, {"s": 1.0})
    with pytest.raises(WrongBaseError):
        export_lora(make_lm("qwen2"), mix, tmp_path / "lora")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    with pytest.raises(SteerError, match="holds no LoRA"):
        export_lora(llama, mix, tmp_path / "thesis")
    folder = export_lora(llama, mix, tmp_path / "lora")
    with pytest.raises(SteerError, match="no LoRA in"):
        import_lora(llama, tmp_path, "x")
    config = json.loads((folder / "adapter_config.json").read_text())
    for more in ({"use_dora": True}, {"alpha_pattern": {"lm_head": 9}}, {"modules_to_save": ["norm"]}):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **more}))
        with pytest.raises(SteerError, match=f"uses {next(iter(more))}, which a steer cannot"):
            import_lora(llama, folder, "x")
    for more, message in (({"peft_type": "ADALORA"}, "of the type 'ADALORA'"), ({"r": 9}, "says rank 9, and its .* 3")):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **more}))
        with pytest.raises(SteerError, match=message):
            import_lora(llama, folder, "x")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    lora_a, lora_b = sorted(tensors)
    norm, odd = {"base_model.model.model.norm.weight": torch.ones(32)}, {lora_a: tensors[lora_a][:1].clone()}
    save_file({**tensors, **norm}, folder / "adapter_model.safetensors")
    import_lora(llama, folder, "x")  # the model's own, as PEFT may keep it beside
    for wrong in ({**tensors, **odd}, {lora_b: tensors[lora_b]}):
        save_file(wrong, folder / "adapter_model.safetensors")
        with pytest.raises(SteerError, match="fit together"):
            import_lora(llama, folder, "x")
    save_file({**tensors, "base_model.model.model.norm.weight": torch.zeros(32)}, folder / "adapter_model.safetensors")
    with pytest.raises(SteerError, match=r"changes base_model.model.model.norm.weight"):
        import_lora(llama, folder, "x")
    for damaged in ("{", json.dumps({"r": 2})):
        (folder / "adapter_config.json").write_text(damaged)
        with pytest.raises(SteerError, match="is damaged"):
            import_lora(llama, folder, "x")


def test_lora_of_linear_layers_is_a_steer_exactly(llama, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"], r=2, lora_alpha=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model("llama"), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "q")
    nearest = import_lora(llama, tmp_path / "q", "x")
    assert nearest.residual == 0
    assert nearest.steer.rank == 0
    assert nearest.steer.sites[0] == "layers.0.self_attn.q_proj"
    with torch.inference_mode(), llama.steered(Mix({"s": nearest.steer}, {"s": 1.0})):
        found, expected = llama.model(IDS).logits, model.eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # float32, another order of products


def test_a_rank_of_zero_is_refused(llama, tmp_path):
    folder = export_lora(llama, Mix({"s": random_steer(llama)}, {"s": 1.0}), tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 0}))
    with pytest.raises(SteerError, match="says rank 0"):
        import_lora(llama, folder, "x")


def test_lora_of_layers_of_other_sizes_is_refused(llama, tmp_path):
    folder = export_lora(llama, Mix({"s": inner_steer(llama, ["layers.0.mlp.down_proj"])}, {"s": 1.0}), tmp_path / "l")
    tensors = load_file(folder / "adapter_model.safetensors")
    wider = {key: torch.cat([value, value], 1) if "lora_A" in key else value for key, value in tensors.items()}
    save_file(wider, folder / "adapter_model.safetensors")
    with pytest.raises(WrongBaseError, match=r"down_proj of size \(32, 96\); .* has \(32, 48\)"):
        import_lora(llama, folder, "x")


def test_lora_of_what_is_no_site_is_refused(llama, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"], r=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path / "e")
    with pytest.raises(SteerError, match="of lm_head and of linear layers that share no weight"):
        import_lora(llama, tmp_path / "e", "x")


def test_lora_trained_by_peft_is_read(llama, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["lm_head"], r=3, lora_alpha=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny_model("llama"), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(tmp_path / "head")
    nearest = import_lora(llama, tmp_path / "head", "x")
    assert 0.1 < nearest.residual < 1
    e = llama.head.weight.float()
    a, b = (next(p for n, p in model.named_parameters() if key in n) for key in ("lora_A", "lora_B"))
    update = 4 * (b @ a).detach()
    left = update - e @ nearest.steer.matrix().T
    assert float(left.norm() / update.norm()) == pytest.approx(nearest.residual, rel=1e-3)
    assert (e.T @ left).abs().max() < 1e-2 * (e.T @ update).abs().max()  # nothing is left that E spans
    assert head_name(llama) == "lm_head"
