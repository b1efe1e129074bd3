"""Checkpoints that lack something, or hold something else than they say, are refused by name; none is filled up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from lmsteer.errors import ModelError
from lmsteer.model.loading import load
from tiny import FAMILIES, tiny_model, tiny_tokenizer

Tensors = dict[str, Tensor]
WEIGHTS = "model.safetensors"
DOWN = "model.layers.1.mlp.down_proj.weight"


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def reconfigure(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tiny_model("llama"), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def checkpoint(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Checkpoints of several families; one of them has its experts' tensors merged on loading."""
    experts = AutoConfig.for_model("mixtral", vocab_size=259, num_local_experts=3, **FAMILIES["llama"])
    models = [*map(tiny_model, ("llama", "gpt2", "opt", "mamba")), AutoModelForCausalLM.from_config(experts)]
    return [saved(model, tmp_path_factory.mktemp("family")) for model in models]


@settings(max_examples=20, derandomize=True)
@given(data=st.data())
def test_a_tensor_that_was_dropped_renamed_or_reshaped_is_named(families, data):
    folder = data.draw(st.sampled_from(families))
    whole = load_file(folder / WEIGHTS)
    name = data.draw(st.sampled_from(sorted(whole)))
    how = data.draw(st.sampled_from(["drop", "rename", "flatten", "widen", "cut"]))
    tensors = dict(whole)
    tensor = tensors.pop(name)
    changed = {
        "drop": {},
        "rename": {f"{name}_": tensor},
        "flatten": {name: tensor.reshape(1, -1)},
        "widen": {name: torch.cat([tensor, tensor])},
        "cut": {name: tensor[:-1]},
    }[how]
    save_file({**tensors, **changed}, folder / WEIGHTS, metadata={"format": "pt"})
    try:
        with pytest.raises(ModelError) as refused:
            load(folder)
    finally:
        save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    message = str(refused.value)
    # transformers makes one parameter of the tensors of all experts, and that is what it tells.
    told = re.sub(r"block_sparse_moe.(gate|experts).*", r"mlp.\1", name)
    assert any(part in message for part in (name, told)), (how, name, message)


def test_a_whole_checkpoint_loads_alike_each_time(whole, capfd):
    first, second = load(whole), load(whole)
    assert first.fingerprint == second.fingerprint
    assert first.card("x").head_sample == second.card("x").head_sample
    assert "no place" not in capfd.readouterr().err


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_is_no_language_model(tmp_path, tied):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=259, tie_word_embeddings=tied, **FAMILIES["llama"])
    folder = saved(AutoModelForSequenceClassification.from_config(config), tmp_path)
    with pytest.raises(ModelError, match="LlamaForSequenceClassification") as refused:
        load(folder)
    assert tied or "lm_head.weight" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("lm_head.weight"), "tie_word_embeddings"),
        (lambda t: [t.update({f"_orig_mod.{name}": t.pop(name)}) for name in list(t)], "has _orig_mod.lm_head.weight"),
        (lambda t: t.update({f"{DOWN[:-7]}.lora_A.default.weight": t.pop(DOWN)}), "merge_and_unload"),
        (lambda t: t.update({f"{DOWN[:-7]}.qweight": t.pop(DOWN)}), "quantised"),
        (lambda t: t.update({"something": t.pop(DOWN)}), r"other tensors instead \(something\)"),
        (lambda t: t.pop(DOWN), "not saved, merged or fetched to the end"),
    ],
)
def test_the_reason_is_guessed(checkpoint, change, reason):
    rewrite(checkpoint, change)
    with pytest.raises(ModelError, match=reason):
        load(checkpoint)


def test_a_config_of_another_model_is_told_with_both_shapes(checkpoint):
    reconfigure(checkpoint, vocab_size=300)
    with pytest.raises(ModelError, match=r"lm_head.weight has the shape \(259, 32\), .* needs \(300, 32\); 1 more"):
        load(checkpoint)


def test_what_is_left_over_is_told_in_one_line(checkpoint, capfd, whole):
    rewrite(checkpoint, lambda t: t.update({f"vision.{i}.weight": torch.zeros(1) for i in range(9)}))
    assert load(checkpoint).fingerprint == load(whole).fingerprint
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "vision" in line]
    assert line.endswith(
        "LlamaForCausalLM has no place for 9 tensors of its checkpoint (vision.0.weight, vision.1.weight, "
        "vision.2.weight, vision.3.weight, vision.4.weight and 4 more); what is left over is not used"
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(checkpoint, value):
    rewrite(checkpoint, lambda t: t["model.embed_tokens.weight"][200].fill_(value))  # no token of the proofs
    with pytest.raises(ModelError, match=r"its weight model.embed_tokens.weight holds numbers that are not finite"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (WEIGHTS, lambda old: old[:-100], f"{WEIGHTS} is damaged, or not complete"),
        (WEIGHTS, lambda old: b"", f"{WEIGHTS} is damaged, or not complete"),
        (WEIGHTS, lambda old: b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "pointer of Git LFS"),
        ("config.json", lambda old: b"[]", "config.json holds a list"),
        ("config.json", lambda old: old[:20], "config.json is damaged"),
        ("tokenizer.json", lambda old: old[:20], "tokenizer.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(checkpoint, file, content, message):
    path = checkpoint / file
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ModelError, match=message):
        load(checkpoint)


def test_a_missing_shard_is_named(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        load(tmp_path)


def test_two_checkpoints_in_one_folder_are_told_apart_by_the_user(checkpoint):
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {DOWN: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ModelError, match="holds two checkpoints"):
        load(checkpoint)
    index.write_text(json.dumps({"weight_map": {DOWN: WEIGHTS}}))
    assert load(checkpoint).name == "model"


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a checkpoint ran code",)


def test_a_bin_file_is_read_as_tensors_alone(checkpoint, whole):
    tensors = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    torch.save(tensors, checkpoint / "pytorch_model.bin")
    assert load(checkpoint).fingerprint == load(whole).fingerprint
    torch.save({**tensors, "code": Code()}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds more than tensors, and lmsteer runs no code"):
        load(checkpoint)


def test_an_adapter_is_no_model(checkpoint):
    (checkpoint / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    with pytest.raises(ModelError, match=r"or move adapter_config.json away"):
        load(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(ModelError, match="holds an adapter of PEFT, and no model: merge"):
        load(checkpoint)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_without_a_tokenizer_is_refused(tmp_path, family):
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="there is no tokenizer in"):
        load(tmp_path)


def test_a_tokenizer_comes_from_the_same_place_as_its_model(checkpoint):
    inner = checkpoint.parent / "outer"
    shutil.copytree(checkpoint, inner / "inner")
    (inner / "config.json").write_text((checkpoint / "config.json").read_text())
    assert load(inner, subfolder="inner").fingerprint == load(checkpoint).fingerprint
