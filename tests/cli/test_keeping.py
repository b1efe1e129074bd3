"""cache lists what is kept and clears it; steers lists those that are known by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.export.peft import export_lora
from lmsteer.model.loading import load
from lmsteer.serving.vllm.adapter_cache import adapters_folder
from lmsteer.steer.files import find_steer
from lmsteer.steer.mix import Mix
from tiny import random_steer, tiny_lm


def test_the_cache_is_listed_and_cleared(run):
    run("fit", "letters.jsonl", "--name", "letters", "--store")
    lm = tiny_lm("llama")
    export_lora(lm, Mix({"style": random_steer(lm)}, {"style": 2.0}), adapters_folder() / "written")
    listed = json.loads(run("cache", "--json", model=False)[1])
    assert {entry["kind"] for entry in listed} == {"states", "fisher", "adapters"}
    assert "240 texts" in run("cache", model=False)[1]
    (removed,) = json.loads(run("cache", "--clear", "adapters", "--json", model=False)[1])
    assert Path(removed["path"]).name == "written"
    assert not Path(removed["path"]).exists()
    assert run("cache", "--clear", "all", "--json", model=False)[0] == 0
    assert json.loads(run("cache", "--json", model=False)[1]) == []
    status, _, err = run("cache", "--clear", "everything", model=False)
    assert status == 2
    assert "states" in err


def test_steers_are_listed_those_of_the_folder_first(run):
    run("fit", "letters.jsonl", "--name", "letters", "--label", "[early] letters")
    status, out, _ = run("steers", "--json", model=False)
    assert status == 0
    listed = json.loads(out)
    assert listed[0]["card"]["name"] == "letters"
    shipped = {entry["card"]["name"] for entry in listed[1:]}
    assert {"sentiment", "toxicity", "politeness", "emotion", "clickbait"} == shipped
    status, out, _ = run("steers", model=False)
    assert status == 0
    assert "[early]" in out
    assert out.count("ships") == len(shipped)


def test_steers_that_ship_have_whole_cards_and_are_small(run):
    for entry in json.loads(run("steers", "--json", model=False)[1]):
        card = entry["card"]
        low, high = card["safe_range"]
        assert low < 0 < high
        assert card["data"]["corpus"]
        assert card["data"]["licence"]
        assert card["held_out"]["test"]["sign_accuracy"] > 0.7
        assert "/" not in json.dumps(card["data"]["corpus"])
        assert sum(file.stat().st_size for file in Path(entry["folder"]).iterdir()) < 500_000


@pytest.mark.model
def test_steers_that_ship_are_of_the_default_model(run):
    lm = load()
    for entry in json.loads(run("steers", "--json", model=False)[1]):
        find_steer(entry["card"]["name"]).card.check_base(lm)
