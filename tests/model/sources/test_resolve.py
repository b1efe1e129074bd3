"""Sources: what a name or a path of a model stands for."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmsteer
from lmsteer.errors import ModelError
from lmsteer.model.sources import resolve as sources
from lmsteer.model.sources.pypi import DEFAULT_MODEL
from lmsteer.model.sources.resolve import hub_answers, resolve
from lmsteer.util.disk_cache import cache_dir


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path.home() / "own"
    monkeypatch.delenv("LMSTEER_CACHE")
    assert cache_dir() == Path("/xdg/lmsteer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "lmsteer"


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = tmp_path / "my-model"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(folder)
    (folder / "weights.gguf").touch()
    with pytest.raises(ModelError, match=r"it holds weights\.gguf: name that file"):
        resolve(str(folder))
    (folder / "config.json").write_text("{}")
    assert resolve(folder) == sources.Source(str(folder), "my-model", local=True)
    monkeypatch.chdir(folder)
    assert resolve(".").name == "my-model"


def test_a_hub_id_is_itself():
    for name in ("gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        assert resolve(name) == sources.Source(name, name, local=False)


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./nothing", "/nothing", "missing.gguf", "a\\b", "folder/", Path("nothing")]
)
def test_a_path_to_nothing_is_told_from_a_hub_id(name):
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve(name)


def test_a_model_that_is_nowhere_is_told_at_once_where_there_is_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("it was tried all the same"))
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        lmsteer.load("someone/a-model")


def test_a_model_that_was_fetched_before_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "models--someone--a-model").mkdir()
    assert not hub_answers("someone/a-model", str(tmp_path))
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        hub_answers("someone/another", str(tmp_path))


def test_a_model_that_was_fetched_before_is_read_without_asking_for_each_file(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repository = tmp_path / "models--someone--a-model"
    snapshot = repository / "snapshots" / ("a" * 40)
    llama.model.save_pretrained(snapshot)
    llama.tokenizer.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", lambda *_, **__: pytest.fail("asked"))
    loaded = lmsteer.load("someone/a-model", cache_dir=str(tmp_path))
    assert loaded.fingerprint == llama.fingerprint
    assert loaded.tokenizer_fingerprint == llama.tokenizer_fingerprint


def test_what_the_hub_says_is_left_to_whoever_loads(monkeypatch, tmp_path):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as refuses_all:
        threading.Thread(target=refuses_all.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{refuses_all.server_port}")
        assert hub_answers("someone/a-model", str(tmp_path))


@pytest.mark.parametrize("name", ["", " ", "a b", "a--b", "née", "x" * 5000, "a\0b", "~no-such-user/x"])
def test_nonsense_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()  # "" is not the folder that one happens to be in
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert len(str(caught.value)) < 600


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"is a file, but no \.gguf file"):
        resolve(tmp_path / "model.safetensors")


@pytest.mark.model
def test_the_default_model_is_what_it_should_be():
    source = resolve(DEFAULT_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(source.location, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(source.location, local_files_only=True)
    assert source.name == "smollm2"
    assert model.dtype == torch.float32
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tokenizer.chat_template
    assert tokenizer.tokenize("\n\n1 2") == ["ĊĊ", "1", "Ġ", "2"]
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0])
