"""The environment variable that names the steers, without vLLM."""

from __future__ import annotations

import os

import pytest

from lmsteer import save_steer
from lmsteer.errors import SteerError
from lmsteer.generation.config import NO_LIMITS, Limits
from lmsteer.serving.vllm.asked import NOTHING
from lmsteer.serving.vllm.validation import FOLDERS, parse_steering, registry
from lmsteer.steer.strength import Windowed
from lmsteer.steer.window import Window
from tiny import inner_steer, kin_of, own_steer, random_steer, read_steer, tiny_lm


@pytest.fixture(autouse=True)
def fresh():
    registry.cache_clear()
    yield
    registry.cache_clear()


def test_a_steer_inside_the_model_is_refused(llama, tmp_path, monkeypatch):
    save_steer(inner_steer(llama, ["layers.0"]), tmp_path / "style")
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    with pytest.raises(SteerError, match="acts inside the model: on a server with --enable-lora, name the model"):
        parse_steering({"steers": "style=1"})


def test_folders_and_ids_of_the_hub_are_told_apart_and_versions_are_passed_on(hub, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_steer(random_steer(llama), "steers/style").parent
    shas = {name: hub.add(name, folder / "style") for name in ("org/a", "org/b")}
    monkeypatch.setenv(FOLDERS, os.pathsep.join(["hf://org/a@main", str(folder), "org/b"]))
    steers, strengths, _ = parse_steering({"steers": "org/a=1,org/b=2,style=3"})
    assert strengths == {"org/a": 1.0, "org/b": 2.0, "style": 3.0}
    assert steers["org/b"].card.origin == f"hf://org/b@{shas['org/b']}"
    pinned = [str(folder), *(f"hf://{name}@{sha}" for name, sha in shas.items())]
    assert os.environ[FOLDERS] == os.pathsep.join(pinned)
    registry.cache_clear()
    assert registry().names() == ["org/a", "org/b", "style"]


def test_what_is_no_source_of_steers_is_refused(hub, monkeypatch):
    for value, message in (("nowhere", "neither a folder nor an id"), ("org/no", "no such repository"), ("", "empty")):
        registry.cache_clear()
        monkeypatch.setenv(FOLDERS, value)
        with pytest.raises(SteerError, match=message):
            registry()


def test_limits_come_with_the_steers_and_fresh_is_refused(llama, tmp_path, monkeypatch):
    save_steer(random_steer(llama), tmp_path / "style")
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    assert parse_steering({"steers": "style=1", "kl": 1, "plausible": 0.05}).limits == Limits(plausible=0.05, kl=1)
    assert parse_steering({"steers": "style=1"}).limits == NO_LIMITS
    assert parse_steering({"kl": 1.0}) == NOTHING  # another plugin's
    for wrong, message in (
        ({"fresh": 8}, "'fresh' is a limit that lmsteer's own server has"),
        ({"kl": "much"}, "'kl' must be a number, not 'much'"),
        ({"plausible": True}, "'plausible' must be a number, not True"),
        ({"kl": -1.0}, "kl must be above 0"),
        ({"plausible": 1.5}, "plausible must be at least 0 and below 1"),
    ):
        with pytest.raises(SteerError, match=message):
            parse_steering({"steers": "style=1", **wrong})


def test_windows_count_tokens(llama, tmp_path, monkeypatch):
    save_steer(random_steer(llama), tmp_path / "style")
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    strengths = parse_steering({"steers": "style=3@rise..10"}).strengths
    assert strengths == {"style": Windowed(3.0, Window.parse("rise..10"))}


def test_parts_of_answers_holds_and_readings_are_refused(llama, tmp_path, monkeypatch):
    save_steer(read_steer(llama), tmp_path / "style")
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    with pytest.raises(SteerError, match=r"style=3@answer: vLLM does not know an answer's parts; leave out @answer"):
        parse_steering({"steers": "style=3@answer"})
    for others in ({"hold": "style=0.8"}, {"steers": "style=1", "readings": True}):
        with pytest.raises(
            SteerError, match=r"'(hold|readings)' is what lmsteer's own server does; in vLLM, leave it out"
        ):
            parse_steering(others)


def test_steers_of_kin_are_served_together(llama, tmp_path, monkeypatch):
    for lm, name in ((llama, "whole"), (kin_of(llama), "rounded"), (tiny_lm("gpt2"), "other")):
        save_steer(own_steer(lm, name=name), tmp_path / name)
    monkeypatch.setenv(FOLDERS, str(tmp_path))
    assert [len(parse_steering({"steers": f"{name}=1"})[0]) for name in ("whole", "rounded")] == [1, 1]
    with pytest.raises(
        SteerError, match=r"steer 'other' has another base model \(tiny-gpt2\) than the other steers here"
    ):
        registry().find("other")


@pytest.mark.parametrize("field", ["gist", "baseline"])
def test_what_stands_before_a_prompt_is_refused_with_steers_and_without(field):
    for others in ({}, {"steers": "style=1"}):
        with pytest.raises(SteerError, match=f"a {field} stands before a prompt in lmsteer's own server alone"):
            parse_steering({field: "kind", **others})
