"""Adapters: what they change while installed, that nothing stays, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmsteer.errors import DataError, WrongBaseError
from lmsteer.gist import lookup
from lmsteer.gist.adapter import find_adapter, load_adapter, save_adapter
from lmsteer.gist.embedding import gist_ids, initial_embedding
from lmsteer.model.lora import LoRAFactors


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "opt"])
def test_weights_are_as_they_were_bit_for_bit_afterwards(make_lm, adapter_of, family):
    lm = make_lm(family)
    adapter = adapter_of(lm)
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    strides = {name: parameter.stride() for name, parameter in lm.model.named_parameters()}
    ids = torch.arange(3, 9)[None]
    plain = lm.model(ids).logits
    with adapter.installed(lm):
        changed = {name for name, parameter in lm.model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed == {f"{name}.weight" for name in adapter.lora}
        assert all(parameter.stride() == strides[name] for name, parameter in lm.model.named_parameters())
        assert not torch.allclose(lm.model(ids).logits, plain, atol=1e-2)
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
    assert torch.equal(lm.model(ids).logits, plain)


def test_an_error_inside_leaves_the_model_as_it_was(llama, adapter_of):
    plain = llama.model(torch.arange(3, 9)[None]).logits
    with pytest.raises(RuntimeError, match="within"), adapter_of(llama).installed(llama):
        raise RuntimeError("within")
    assert torch.equal(llama.model(torch.arange(3, 9)[None]).logits, plain)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_gist_ids_get_embeddings_of_their_own_and_others_keep_theirs(make_lm, adapter_of, family):
    lm = make_lm(family)
    adapter = adapter_of(lm, 3)
    module = lm.model.get_input_embeddings()
    first, second, third = adapter.ids(lm)
    plain = module(torch.tensor([[5, 6]]))
    with adapter.installed(lm):
        found = module(torch.tensor([[5, second, 6, first]]))
    assert torch.equal(found[0, [0, 2]], plain[0])
    assert torch.equal(found[0, [1, 3]], adapter.embeddings[[1, 0]])
    assert (first, third) == (len(module.weight), len(module.weight) + 2)


def test_shared_gist_tokens_are_one_id_repeated(llama, adapter_of):
    assert adapter_of(llama, 3, share_embedding=True).ids(llama) == gist_ids(llama, 3, 1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_gist_tokens_start_from_a_line_break_as_it_enters_the_model(make_lm, family, monkeypatch):
    lm = make_lm(family)
    rows = lm.model.get_input_embeddings()(torch.arange(lm.head.weight.shape[0]))
    (newline,) = lm.encode(["\n"])[0]
    assert torch.equal(initial_embedding(lm), rows[newline].float())
    monkeypatch.setattr(type(lm), "encode", lambda *_, **__: [[]])
    torch.testing.assert_close(initial_embedding(lm), rows.mean(0).float())


def test_the_mean_embedding_is_summed_where_float64_exists(make_lm, monkeypatch):
    """Apple's GPUs have no float64: nothing becomes double before it is on the host."""
    lm, seen = make_lm("llama"), []
    monkeypatch.setattr(type(lm), "encode", lambda *_, **__: [[]])
    cpu, double = torch.Tensor.cpu, torch.Tensor.double

    def to_host(self):
        host = cpu(self)
        seen.append(id(host))
        return host

    def to_double(self):
        assert id(self) in seen
        return double(self)

    monkeypatch.setattr(torch.Tensor, "cpu", to_host)
    monkeypatch.setattr(torch.Tensor, "double", to_double)
    assert initial_embedding(lm).dtype == torch.float32
    assert seen


def test_a_loaded_adapter_equals_the_saved_one(llama, adapter_of, tmp_path):
    adapter = adapter_of(llama)
    loaded = load_adapter(save_adapter(adapter, tmp_path / "a"))
    assert (loaded.card, loaded.fingerprint) == (adapter.card, adapter.fingerprint)
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in adapter.tensors.items())
    assert adapter_of(llama, seed=1).fingerprint != adapter.fingerprint
    three, two = (adapter_of(llama, tokens, share_embedding=True) for tokens in (3, 2))
    assert three.fingerprint != two.fingerprint


def test_shipped_adapters_are_found_by_name(llama, adapter_of, tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    adapter, other = adapter_of(llama), adapter_of(llama, seed=1)
    save_adapter(adapter, tmp_path / "shipped" / "gist-2")
    assert find_adapter("gist-2").fingerprint == adapter.fingerprint
    with pytest.raises(DataError, match="no gist adapter in gist-3; give a folder that gist fit made, or gist-2"):
        find_adapter("gist-3")
    save_adapter(other, "gist-2")
    assert find_adapter("gist-2").fingerprint == other.fingerprint  # one's own goes first


def test_adapters_that_do_not_suit_the_model_or_are_damaged_are_refused(llama, make_lm, adapter_of, tmp_path):
    adapter = adapter_of(llama)
    with pytest.raises(WrongBaseError, match="was fitted on"), adapter.installed(make_lm("qwen2")):
        pass
    name = next(iter(adapter.lora))
    odd = replace(adapter, lora={name: LoRAFactors(torch.zeros(2, 5), torch.zeros(7, 2))})
    with pytest.raises(WrongBaseError, match=r"for a layer of \(7, 5\)"), odd.installed(llama):
        pass
    for wrong in (
        {"card": replace(adapter.card, tokens=0)},
        {"card": replace(adapter.card, tokens=5)},
        {"embeddings": adapter.embeddings * torch.nan},
    ):
        with pytest.raises(DataError):
            replace(adapter, **wrong)
    folder = save_adapter(adapter, tmp_path / "a")
    with pytest.raises(DataError, match="no gist adapter"):
        load_adapter(tmp_path)
    for file in ("gist.safetensors", "gist.json"):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-30])
        with pytest.raises(DataError, match="is damaged"):
            load_adapter(folder)
        (folder / file).write_bytes(whole)
    record = json.loads((folder / "gist.json").read_text())
    (folder / "gist.json").write_text(json.dumps({**record, "format": 9}))
    with pytest.raises(DataError, match="format 9"):
        load_adapter(folder)
    (tmp_path / "a" / "notes.md").touch()
    with pytest.raises(DataError, match="beside its gist adapter"):
        save_adapter(adapter, tmp_path / "a")


@pytest.mark.parametrize(
    ("left_out", "message"),
    [("embeddings", "the tensor 'embeddings' is missing"), (".lora_B", "two factors of each of its layers")],
)
def test_a_folder_without_a_tensor_is_reported_as_damaged(llama, adapter_of, tmp_path, left_out, message):
    file = save_adapter(adapter_of(llama), tmp_path / "a") / "gist.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if name.endswith(left_out))]
    save_file(tensors, file)
    with pytest.raises(DataError, match=f"gist adapter in .* is damaged: .*{message}"):
        load_adapter(tmp_path / "a")


def test_a_tensor_that_an_adapter_has_no_place_for_is_told(llama, adapter_of, tmp_path):
    file = save_adapter(adapter_of(llama), tmp_path / "a") / "gist.safetensors"
    save_file({**load_file(file), "model.layers.0.lora_C": torch.zeros(2)}, file)
    with pytest.raises(DataError, match=r"is damaged: .* no place for the tensor 'model\.layers\.0\.lora_C'"):
        load_adapter(tmp_path / "a")
