"""analyse reads texts by steers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.model.loading import load
from lmsteer.steer.files import save_steer
from tiny import random_steer


def test_analyse(run):
    assert run("fit", "letters.jsonl", "--name", "letters")[0] == 0
    status, out, _ = run("analyse", "abc  def.", "--steer", "letters", "--json")
    assert status == 0
    analysis = json.loads(out)
    dimension = analysis["dimensions"]["letters"]
    assert [word["text"] for word in dimension["words"] if word["text"]] == ["abc", "def", "."]
    assert 0 <= dimension["probability"] <= 1
    assert sum(word["evidence"] for word in dimension["words"]) + dimension["end"] == pytest.approx(dimension["score"])
    Path("lines.txt").write_text("abc\nxyz\n")
    status, out, err = run("analyse", "--texts", "lines.txt", "--steer", "letters", "--html", "page.html")
    assert status == 0
    assert "2 texts written to page.html" in err
    assert Path("page.html").read_text(encoding="utf-8").count("<article>") == 2
    status, out, _ = run("analyse", "--document", "lines.txt", "--steer", "letters")
    assert status == 0
    assert "abc xyz" in out
    assert "%, likeliest at" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyse", "--steer", "letters"], "nothing to read: give a text"),
        (["analyse", "abc"], "no steer to analyse the texts with"),
        (["analyse", "abc", "--steer", "nosuch"], "unknown steer 'nosuch'"),
        (["analyse", "abc", " ", "--steer", "letters"], "text 2 is empty"),
        (["analyse", "abc", "--steer", "letters", "--window", "1"], "Invalid value for '--window'"),
        (["analyse", "abc", "--steer", "letters", "--spans", "-1"], "Invalid value for '--spans'"),
        (["analyse", "--texts", "nosuch.txt", "--steer", "letters"], "nosuch.txt"),
        (["analyse", "abc", "--steer", "letters", "--html", "letters.jsonl/page.html"], "cannot write"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, tiny_folder, arguments, message):
    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
