"""Tokens that the model cannot read end a command with a plain sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer, tiny_model

TEXT = "my padding is [PAD] here"


@pytest.fixture(scope="module")
def padded(tiny_folder, tmp_path_factory):
    """A folder of a model that was not resized when its tokenizer got a token, with a steer."""
    folder = tmp_path_factory.mktemp("padded")
    tiny_model("llama").save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    save_steer(random_steer(load(folder)), folder / "steer")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", TEXT],
        ["generate", TEXT, "--stream"],
        ["fit", "padded.jsonl", "--name", "x"],
        ["analyse", TEXT, "--steer", "{folder}/steer"],
        ["verify", "{folder}/steer", "--data", "padded.jsonl"],
        ["gist", "fit", "gists.jsonl", "--out", "x"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_token_without_an_embedding_is_named(run, padded, arguments):
    lines = [*Path("letters.jsonl").read_text().splitlines(), json.dumps({"text": TEXT, "label": 1})]
    Path("padded.jsonl").write_text("\n".join(lines))
    Path("gists.jsonl").write_text(2 * (json.dumps({"instruction": TEXT, "output": "out"}) + "\n"))
    filled = [argument.format(folder=padded) for argument in arguments]
    status, out, err = run(*filled, "--model", str(padded), model=False)
    assert status == 2
    assert "has the token '[PAD]' (id 259), but padded" in err
    assert "Traceback" not in out + err
    assert not Path("x").exists()
