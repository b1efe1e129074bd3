"""components shows the words of a steer, or of two side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer, tiny_lm


def test_components(run):
    assert run("fit", "letters.jsonl", "--name", "letters")[0] == 0
    status, out, _ = run("components", "letters", "--json", "--components", "2", "--words", "3", "--plot", "map.svg")
    assert status == 0
    assert len(json.loads(out)) == 2
    assert "<svg" in Path("map.svg").read_text(encoding="utf-8")
    other = tiny_lm("gpt_neox")
    other.model.save_pretrained("other")
    other.tokenizer.save_pretrained("other")
    save_steer(random_steer(load("other")), "theirs")
    compare = ["--compare", "theirs", "--compare-model", "other", "--components", "2"]
    status, out, _ = run("components", "letters", *compare, "--json")
    assert status == 0
    assert {name.split()[0]: len(parts) for name, parts in json.loads(out).items()} == {"letters": 2, "theirs": 2}
    assert "theirs" in run("components", "letters", *compare)[1]
    status, out, _ = run("components", "letters=-1", "--components", "1")
    assert status == 0
    assert "likelier at" in out


def test_a_model_of_both_steers_is_loaded_once(run, tiny_folder, monkeypatch):
    loaded = []
    monkeypatch.setattr("lmsteer.model.loading.load", lambda name: loaded.append(name) or load(name))
    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    save_steer(random_steer(load(tiny_folder), seed=1), "steers/others")
    assert run("components", "letters", "--compare", "others")[0] == 0
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["components", "letters=1,2"], "one strength of each steer"),
        (["components", "letters=x"], "cannot read 'letters=x'"),
        (["components", "letters", "--plot", "map.docx"], "name it .svg, .png or .pdf"),
        (["components", "letters=0"], "has no effect"),
        (["components", "letters", "--compare", "letters", "--compare-model", "letters.jsonl"], "no .gguf file"),
        (["components", "letters", "--words", "-1"], "Invalid value for '--words'"),
        (["components", "letters", "--components", "0"], "Invalid value for '--components'"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, tiny_folder, arguments, message):
    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
