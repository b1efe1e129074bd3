"""Bulk generation with vLLM; the package itself is replaced, so that its arguments can be seen."""

import os
import sys
from types import SimpleNamespace

import pytest

from lmsteer.data.chats import Chat
from lmsteer.errors import LMSteerError
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.model.chat import encode_chat
from lmsteer.serving.vllm import validation
from lmsteer.serving.vllm.offline import vllm_writer
from lmsteer.steer.strength import Windowed
from lmsteer.steer.window import Window
from lmsteer.util.seeds import stable_seed
from tiny import chat_lm, random_steer


class FakeLLM:
    """Answers each prompt with the steers that its environment and its parameters name."""

    def __init__(self, model, **options):
        if "wrong" in options:
            raise ValueError("no such option")

    def generate(self, prompts, params, use_tqdm):
        steerings = [validation.parse_steering(each.extra_args) for each in params]
        texts = [f"{each.seed} {strengths}" for each, (_, strengths, _) in zip(params, steerings, strict=True)]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]


@pytest.fixture
def fake_vllm(monkeypatch):
    module = SimpleNamespace(LLM=FakeLLM, SamplingParams=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_each_row_has_its_strengths_and_a_seed_of_its_own(llama, tmp_path, fake_vllm):
    config = GenerationConfig(2, 8, SamplingConfig(0.9), seed=3)
    settings = [{"a/style": 1.0}, {"a/style": -2.0}]
    with vllm_writer("model", {"a/style": random_steer(llama)}, settings, config, tmp_path, {}) as write:
        first, second = write(["one", "two"], 5)
    assert first["prompt"] == {"text": "one"}
    assert [line["strengths"] for line in second["generations"]] == [settings[0]] * 2 + [settings[1]] * 2
    seeds = [stable_seed(3, 6, sample) for sample in (0, 1)]
    strengths = [1.0, 1.0, -2.0, -2.0]
    expected = [f"{seed} {{'s0': {s}}}" for seed, s in zip(seeds * 2, strengths, strict=True)]
    assert [line["text"] for line in second["generations"]] == expected


def test_windows_limits_and_stop_strings_go_with_the_strengths(llama, tmp_path, fake_vllm, monkeypatch):
    given, stops, generate = [], [], FakeLLM.generate

    def spy(self, prompts, params, use_tqdm):
        given.extend(validation.parse_steering(each.extra_args) for each in params)
        stops.extend(each.stop for each in params)
        return generate(self, prompts, params, use_tqdm)

    monkeypatch.setattr(FakeLLM, "generate", spy)
    config = GenerationConfig(limits=Limits(plausible=0.05, kl=1.5), stop=("end",))
    window = Windowed(2.0, Window.parse("..8"))
    with vllm_writer("model", {"style": random_steer(llama)}, [{"style": window}], config, tmp_path, {}) as write:
        (line,) = write(["one"], 0)
    assert [(asked.strengths, asked.limits) for asked in given] == [({"s0": window}, config.limits)]
    assert line["generations"][0]["strengths"] == {"style": "2@..8"}
    assert stops == [["end"]]


@pytest.mark.parametrize("before", [None, "steers"])
def test_environment_is_restored(llama, tmp_path, fake_vllm, monkeypatch, before):
    monkeypatch.delenv(validation.FOLDERS, raising=False)
    if before:
        monkeypatch.setenv(validation.FOLDERS, before)
    environment = dict(os.environ)
    with vllm_writer("model", {"style": random_steer(llama)}, [{"style": 1.0}], GenerationConfig(), tmp_path, {}):
        assert os.environ[validation.FOLDERS].startswith(str(tmp_path))
    assert dict(os.environ) == environment
    with pytest.raises(LMSteerError, match="vLLM does not start: no such option"):
        vllm_writer("model", {}, [{}], GenerationConfig(), tmp_path, {"wrong": 1}).__enter__()
    assert dict(os.environ) == environment
    assert list(tmp_path.iterdir()) == []


def test_chats_are_given_in_tokens(tmp_path, fake_vllm, monkeypatch):
    lm, given = chat_lm(), []

    def generate(self, prompts, params, use_tqdm):
        given.extend(prompts)
        return [SimpleNamespace(outputs=[SimpleNamespace(text="x")]) for _ in prompts]

    monkeypatch.setattr(FakeLLM, "generate", generate)
    monkeypatch.setattr(FakeLLM, "get_tokenizer", lambda self: lm.tokenizer, raising=False)
    chat = Chat.of_user("How?")
    with vllm_writer("model", {}, [{}], GenerationConfig(), tmp_path, {}) as write:
        lines = write(["one", chat], 0)
    assert given == ["one", {"prompt_token_ids": encode_chat(lm.codec, chat)}]
    assert [line["prompt"] for line in lines] == [{"text": "one"}, {"messages": chat.to_json()}]
