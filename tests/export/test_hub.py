"""Steers are pushed to a stand-in for the Hub by huggingface_hub's own code, and come back the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hub_server import TOKEN, Repository
from lmsteer import find_steer, push_steer, save_steer
from lmsteer.errors import SteerError
from lmsteer.export.hub import base_of, check_push
from lmsteer.export.model_card import model_card
from lmsteer.steer.lookup import SHIPPED_FOLDER, read_saved
from tiny import random_steer


@pytest.fixture
def style(llama, tmp_path, monkeypatch) -> Path:
    """The folder of a steer whose base is on the Hub; who runs the test is logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").touch()
    steer = random_steer(llama)
    card = replace(
        steer.card,
        base="org/tiny",
        label="letters | of\nthe front",
        data={"texts": 9, "source": {"path": str(Path("texts.jsonl").absolute()), "text_column": "text"}},
        held_out={"sign_accuracy": 0.75, "auc": 0.875, "test": {"auc": 1.0}},
        safe_range=(-2.0, 3.0),
        calibration={
            "max_perplexity_ratio": 1.5,
            "curve": [{"strength": 3.0, "perplexity": 20.5, "rep_3": 0.125, "score": None}],
        },
    )
    return save_steer(replace(steer, card=card), tmp_path / "steers" / "style")


def test_a_pushed_steer_comes_back_the_same_in_one_commit(hub, style):
    pushed = push_steer("style", "org/style", license_id="apache-2.0", message="First\nversion")
    (repository,) = hub.repositories.values()
    assert not repository.private
    assert repository.messages == ["", "First version"]
    assert set(repository.commits[repository.refs["main"]]) == {
        ".gitattributes",
        "README.md",
        "steer.json",
        "steer.safetensors",
    }
    assert pushed.id == f"hf://org/style@{repository.refs['main']}"
    assert pushed.url.startswith(f"{hub.endpoint}/org/style/commit/")
    found, own = find_steer("org/style"), find_steer(style)
    assert found.card.origin == pushed.id
    assert found.factors["A"].equal(own.factors["A"])
    # The folder of the texts is this machine's alone.
    assert found.card.data["source"] == {"path": "texts.jsonl", "text_column": "text"}
    assert own.card.data["source"]["path"] == str(Path("texts.jsonl").absolute())
    assert push_steer("style", "org/style").id != ""  # a second version
    assert repository.messages[-1] == "Steer style"
    assert {file.name for file in style.iterdir()} == {"steer.json", "steer.safetensors"}


def test_the_model_card_has_what_the_hub_reads_and_the_figures_of_the_card(style):
    text = model_card(read_saved(style).card, "org/style", "org/tiny", "mit")
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "org/tiny",
        "base_model_relation": "adapter",
        "library_name": "lmsteer",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["lmsteer", "steering"],
    }
    for line in (
        "# style",
        "Strength +1 means: letters \\| of the front; -1 means the opposite",
        "From -2 to +3: there the perplexity of the text is at most 1.5 times that of unsteered text.",
        "| strength | perplexity | repetition | score |\n| --- | --- | --- | --- |\n| 3 | 20.5 | 0.125 |  |",
        "| AUC | 0.875 |",
        "| base | org/tiny |",
    ):
        assert line in body
    bare = model_card(replace(read_saved(style).card, safe_range=None, calibration={}, held_out={}), "a/b", "c/d")
    assert "license" not in bare
    assert "Nobody measured at which strengths" in bare
    assert "Held out" not in bare


def test_the_snippets_of_a_model_card_run(hub, style, llama, capsys):
    push_steer("style", "org/style")
    readme = hub.repositories["org/style"].commits[hub.repositories["org/style"].refs["main"]]["README.md"].decode()
    llama.model.save_pretrained("org/tiny")  # a folder of that name stands for the model of the Hub
    llama.tokenizer.save_pretrained("org/tiny")
    exec(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1], {})
    assert re.findall(r"'style': (\S+)}", capsys.readouterr().out) == ["-1", "0", "1.5"]
    assert "lmsteer generate 'The weather this morning' --steer org/style=-50%,0,50% --model org/tiny" in readme


def test_a_private_repository_is_made_private_and_a_public_one_is_not_taken_for_one(hub, style):
    push_steer(style, "org/secret", private=True)
    assert hub.repositories["org/secret"].private
    push_steer(style, "org/secret", private=True)
    push_steer(style, "org/open")
    before = hub.repositories["org/open"].refs["main"]
    with pytest.raises(SteerError, match=r"hf://org/open exists and is public: choose another name"):
        push_steer(style, "org/open", private=True)
    assert hub.repositories["org/open"].refs["main"] == before


def test_a_repository_of_something_else_is_not_written_to(hub, style):
    before = hub.add("org/model", **{"config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(SteerError, match=r"hf://org/model holds config\.json, model\.safetensors, which no steer has"):
        push_steer(style, "org/model")
    assert hub.repositories["org/model"].refs["main"] == before


def test_who_may_not_write_is_told_so(hub, style, monkeypatch):
    with pytest.raises(SteerError, match=r"the Hub does not let you write to hf://others/style \(status 403\)"):
        push_steer(style, "others/style")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SteerError, match=r"the Hub does not let you write to hf://org/style \(status 401\): log in"):
        push_steer(style, "org/style")
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.requests)
    with pytest.raises(SteerError, match=r"the Hub does not know who you are: log in with `hf auth login`"):
        push_steer(style, "org/style")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SteerError, match="the Hub cannot be reached for hf://org/style"):
        push_steer(style, "org/style")
    assert len(hub.requests) == asked
    assert not hub.repositories


@pytest.mark.parametrize("repository", ["style", "org/style@main", "../style", "org/a/b", "org/größe", ""])
def test_a_name_that_no_repository_can_have_is_refused(hub, style, repository):
    with pytest.raises(SteerError, match="is no name of a repository: write ORG/NAME"):
        check_push(style, repository)
    assert not hub.requests


def test_the_base_is_named_by_its_id_on_the_hub(style):
    card = read_saved(style).card
    assert base_of(card) == "org/tiny"
    assert base_of(read_saved(SHIPPED_FOLDER / "sentiment").card) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    content = json.loads((style / "steer.json").read_text())
    content["card"]["base"] = "my-folder"
    (style / "steer.json").write_text(json.dumps(content))
    with pytest.raises(SteerError, match="names its base 'my-folder', which is no Hub id: say with --base-model"):
        check_push(style, "org/style")
    check_push(style, "org/style", "org/tiny")
    with pytest.raises(SteerError, match="'tiny' is no Hub id of a model"):
        check_push(style, "org/style", "tiny")


def test_what_is_damaged_or_too_large_is_not_pushed(hub, style, monkeypatch):
    monkeypatch.setitem(__import__("lmsteer.steer.hub").steer.hub._MAX_BYTES, "steer.safetensors", 100)
    with pytest.raises(SteerError, match=r"steer.safetensors of .*style has [0-9,]+ bytes; a steer's has at most 100"):
        push_steer(style, "org/style")
    (style / "steer.safetensors").write_bytes(b"no")
    with pytest.raises(SteerError, match="is damaged"):
        push_steer(style, "org/style")
    assert not hub.requests
    assert hub.repositories == dict[str, Repository]()
