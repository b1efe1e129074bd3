"""analyse, lens and verify read texts and steers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lmsteer.model.loading import load
from lmsteer.steer.files import load_steer, save_steer
from tiny import random_steer, styled, tiny_lm


def test_verify_of_a_steer_that_does_nothing_exits_with_1(run):
    lm = tiny_lm("llama")
    steer = random_steer(lm, "add")
    save_steer(type(steer)("add", {"a": torch.zeros(32)}, 32, steer.vocabulary, steer.card), "dead")
    status, out, _ = run("verify", "dead")
    assert status == 1
    assert "FAILED" in out


def test_verify_reads_other_texts_by_their_own_columns(run):
    run("fit", "letters.jsonl", "--name", "letters")
    rows = [f"{t.text},{'early' if t.label > 0 else 'late'}" for t in styled(40, seed=3)]
    Path("x.csv").write_text("\n".join(["letters,kind", *rows]))
    columns = ["--text-column", "letters", "--label-column", "kind", "--label-map", "early=1,late=-1"]
    status, out, _ = run("verify", "letters", "--data", "x.csv", *columns, "--json")
    assert status == 0
    assert json.loads(out)["reading"]["texts"] == 40
    assert "--text-column" in run("verify", "letters", "--data", "x.csv")[2]


def test_verify_of_one_side_prints_no_nan(run):
    run("fit", "letters.jsonl", "--name", "letters")
    Path("up.jsonl").write_text("\n".join(json.dumps({"text": t.text, "label": 1}) for t in styled(40) if t.label > 0))
    status, out, _ = run("verify", "letters", "--data", "up.jsonl")
    assert status == 0
    assert "positive texts at +1" in out
    assert "nan" not in out
    assert "negative texts" not in out
    status, out, _ = run("verify", "letters", "--data", "up.jsonl", "--json")
    assert (
        json.loads(out, parse_constant=lambda name: pytest.fail(name))["reading"]["log_likelihood_gain_negative"]
        is None
    )
    status, _, err = run("verify", "letters", "--label-column", "kind")
    assert status == 2
    assert "--data" in err


def test_verify_says_where_it_looked_and_refuses_strength_0(run):
    run("fit", "letters.jsonl", "--name", "letters")
    Path("letters.jsonl").unlink()
    status, out, _ = run("verify", "letters")
    assert status == 0
    assert "letters.jsonl" in out
    status, _, err = run("verify", "letters", "--strength", "0")
    assert status == 2
    assert "no steer acts" in err


def test_verify_reads_the_texts_as_the_fit_did(run):
    rows = [f"{t.text},{'early' if t.label > 0 else 'late'}" for t in styled(240)]
    Path("x.csv").write_text("\n".join(["letters,kind", *rows, rows[0]]))
    columns = ["--text-column", "letters", "--label-column", "kind", "--label-map", "early=1,late=-1"]
    assert run("fit", "x.csv", "--name", "l", *columns, "--limit", "200")[0] == 0
    status, out, _ = run("verify", "l", "--json")
    assert status == 0
    held_out = load_steer("steers/l").card.held_out
    assert json.loads(out)["reading"]["texts"] == held_out["texts"]
    assert run("verify", "l", "--data", "x.csv", "--json")[0] == 0


def test_analyse_and_lens(run, tmp_path):
    assert run("fit", "letters.jsonl", "--name", "letters")[0] == 0
    status, out, _ = run("analyse", "abc  def.", "--steer", "letters", "--json")
    assert status == 0
    found = json.loads(out)
    dimension = found["dimensions"]["letters"]
    assert [word["text"] for word in dimension["words"] if word["text"]] == ["abc", "def", "."]
    assert 0 <= dimension["probability"] <= 1
    assert sum(word["evidence"] for word in dimension["words"]) + dimension["end"] == pytest.approx(dimension["score"])
    Path("lines.txt").write_text("abc\nxyz\n")
    status, out, err = run("analyse", "--file", "lines.txt", "--steer", "letters", "--html", "page.html")
    assert status == 0
    assert "2 texts written to page.html" in err
    assert Path("page.html").read_text(encoding="utf-8").count("<article>") == 2
    status, out, _ = run("analyse", "--document", "lines.txt", "--steer", "letters")
    assert status == 0
    assert "abc xyz" in out
    assert "%, likeliest at" in out
    status, out, _ = run("lens", "letters", "--json", "--components", "2", "--words", "3", "--picture", "map.svg")
    assert status == 0
    assert len(json.loads(out)) == 2
    assert "<svg" in Path("map.svg").read_text(encoding="utf-8")
    other = tiny_lm("gpt_neox")
    other.model.save_pretrained("other")
    other.tokenizer.save_pretrained("other")
    save_steer(random_steer(load("other")), "theirs")
    beside = ["--beside", "theirs", "--beside-model", "other", "--components", "2"]
    status, out, _ = run("lens", "letters", *beside, "--json")
    assert status == 0
    assert {name.split()[0]: len(parts) for name, parts in json.loads(out).items()} == {"letters": 2, "theirs": 2}
    assert "theirs" in run("lens", "letters", *beside)[1]
    status, out, _ = run("lens", "letters=-1", "--components", "1")
    assert status == 0
    assert "likelier words" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyse", "--steer", "letters"], "nothing to read: give a text"),
        (["analyse", "abc"], "no steer to analyse the texts with"),
        (["analyse", "abc", "--steer", "nosuch"], "unknown steer 'nosuch'"),
        (["analyse", "abc", " ", "--steer", "letters"], "text 2 is empty"),
        (["analyse", "abc", "--steer", "letters", "--window", "1"], "the window is 1 tokens"),
        (["analyse", "abc", "--steer", "letters", "--spans", "-1"], "spans must be 0 or more, not -1"),
        (["analyse", "--file", "nosuch.txt", "--steer", "letters"], "nosuch.txt"),
        (["analyse", "abc", "--steer", "letters", "--html", "letters.jsonl/page.html"], "cannot write"),
        (["lens", "letters=1,2"], "one strength of each steer"),
        (["lens", "letters=x"], "cannot read 'letters=x'"),
        (["lens", "letters", "--picture", "map.docx"], "name it .svg, .png or .pdf"),
        (["lens", "letters=0"], "does nothing"),
        (["lens", "letters", "--beside", "letters", "--beside-model", "letters.jsonl"], "no .gguf file"),
        (["lens", "letters", "--words", "-1"], "5 components of -1 words"),
        (["lens", "letters", "--components", "0"], "0 components of 12 words"),
    ],
)
def test_analyse_and_lens_refuse_what_makes_no_sense(run, tiny_folder, arguments, message):

    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
