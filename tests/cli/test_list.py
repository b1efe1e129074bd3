"""list names the steers of the folder, and those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.steer.files import find_steer


def test_steers_are_listed_those_of_the_folder_first(run):
    run("fit", "letters.jsonl", "--name", "letters", "--label", "[early] letters")
    status, out, _ = run("list", "--json", model=False)
    assert status == 0
    listed = json.loads(out)
    assert listed[0]["card"]["name"] == "letters"
    shipped = {entry["card"]["name"] for entry in listed[1:]}
    assert {"sentiment", "toxicity", "politeness", "emotion", "clickbait", "warmth"} <= shipped
    status, out, _ = run("list", model=False)
    assert status == 0
    assert "[early]" in out
    assert out.count("ships") == len(shipped)


def test_steers_that_ship_have_whole_cards_and_are_small(run):
    for entry in json.loads(run("list", "--json", model=False)[1]):
        card = entry["card"]
        low, high = card["safe_range"]
        assert low < 0 < high
        assert card["data"]["corpus"]
        assert card["data"]["licence"]
        held_out = card["held_out"]
        if "measure" in held_out:
            assert all(max(map(abs, held_out[kind].values())) >= 1 for kind in ("plain", "chat"))
        else:
            assert held_out["test"]["sign_accuracy"] > 0.7
        assert "/" not in json.dumps(card["data"]["corpus"])
        assert sum(file.stat().st_size for file in Path(entry["folder"]).iterdir()) < 500_000


@pytest.mark.model
def test_steers_that_ship_are_of_the_default_model(smollm2, run):
    for entry in json.loads(run("list", "--json", model=False)[1]):
        find_steer(entry["card"]["name"]).card.check_base(smollm2)


def test_wishes_are_listed(run):
    listed = json.loads(run("list", "--wishes", "--json", model=False)[1])
    assert {"name", "label", "positive", "negative", "scorer", "direction"} == listed[0].keys()
    status, out, _ = run("list", "--wishes", model=False)
    assert status == 0
    assert "-words" in out
    assert all(wish["name"] in out for wish in listed)
