"""transfer makes a steer of another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.steer.files import load_steer
from tiny import styled, tiny_lm


def test_a_steer_is_carried_to_another_model(run, lm, tmp_path):
    other = tiny_lm("gpt_neox")
    other.model.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    status, out, _ = run("transfer", "one", "--to", "other", "--out", "there", "--data", "letters.jsonl", "--json")
    assert status == 0
    assert json.loads(out)["card"]["held_out"]["texts"] == 120
    moved = load_steer("there")
    assert (moved.card.name, moved.card.base) == ("one", "other")
    assert run("generate", "abc", "--steer", "there=2")[0] == 2
    Path("texts.txt").write_text("\n".join(text.text for text in styled(40)))
    status, out, _ = run("transfer", "one", "--to", "other", "--out", "there", "--texts", "texts.txt", "--map", "ridge")
    assert status == 0
    assert "Steer one transferred to other" in out
    assert load_steer("there").card.fit["map"] == "ridge"
    assert load_steer("there").card.fit["pairs"] < moved.card.fit["pairs"] / 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transfer", "one", "--to", "./nowhere", "--out", "x"], "no such file or folder"),
        (["transfer", "one", "--to", "smollm2", "--map", "magic", "--out", "x"], "'gradient', 'ridge', 'procrustes'"),
        (["transfer", "nosuch", "--to", "smollm2", "--out", "x"], "unknown steer"),
        (["transfer", "one", "--to", "smollm2", "--out", "x", "--label-map", "a=1"], "describe --data: give both"),
        (["transfer", "one", "--to", "smollm2", "--out", "x", "--data", "zeros.jsonl"], "is 0; texts of both ends"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(check_refused, arguments, message):
    check_refused(arguments, message)
