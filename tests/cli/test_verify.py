"""verify proves that a steer acts, or exits with status 1."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from lmsteer.steer.files import load_steer, save_steer
from tiny import kin_of, own_steer, random_steer, styled, tiny_lm


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
    assert json.loads(out)["held_out"]["texts"] == 40
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
        json.loads(out, parse_constant=lambda name: pytest.fail(name))["held_out"]["log_likelihood_gain_negative"]
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
    rows = [f"{t.text},{'early' if t.label > 0 else 'late'}" for t in styled(300)]
    Path("x.csv").write_text("\n".join(["letters,kind", *rows, rows[0]]))
    columns = ["--text-column", "letters", "--label-column", "kind", "--label-map", "early=1,late=-1"]
    assert run("fit", "x.csv", "--name", "l", *columns, "--limit", "260")[0] == 0
    status, out, _ = run("verify", "l", "--json")
    assert status == 0
    held_out = load_steer("steers/l").card.held_out
    assert json.loads(out)["held_out"]["texts"] == held_out["texts"]
    assert run("verify", "l", "--data", "x.csv", "--json")[0] == 0


def test_a_kin_of_the_base_is_compared_with_it_where_it_is_here(run, lm, tiny_folder, tmp_path):
    kin = kin_of(lm)
    kin.model.save_pretrained("rounded")
    kin.tokenizer.save_pretrained("rounded")
    save_steer(own_steer(lm), "steers/own")
    status, out, _ = run("verify", "own", "--model", "rounded", model=False)
    assert status == 0
    assert "The base is not on this machine" in " ".join(out.split())
    (tmp_path / "tiny").symlink_to(tiny_folder)
    status, out, _ = run("verify", "own", "--model", "rounded", model=False)
    assert re.search(
        r"kin of the steer's base 'tiny': hidden states differ by \d+\.\d%, next tokens by", " ".join(out.split())
    )
    status, out, _ = run("verify", "own", "--model", "rounded", "--json", model=False)
    found = json.loads(out)
    assert (found["acts"], found["kin"]) == (True, True)
    assert 0 < found["difference"]["hidden_states"] < 0.5
    status, out, _ = run("verify", "own", "--json")
    assert (json.loads(out)["kin"], json.loads(out)["difference"]) == (False, None)


def test_verify_after_a_fit_of_few_texts_names_its_cross_validation(run):
    Path("few.jsonl").write_text("\n".join(json.dumps({"text": t.text, "label": t.label}) for t in styled(16)))
    status, out, _ = run("fit", "few.jsonl", "--name", "few")
    assert status == 0
    assert "In cross-validation (4 folds) on 16 texts" in " ".join(out.split())
    status, out, _ = run("verify", "few")
    assert status == 0
    assert "held no texts out, since they are few. In cross-validation, sign accuracy" in " ".join(out.split())
    status, _, err = run("verify", "few", "--data", "few.jsonl")
    assert status == 2
    assert "held none of these texts out" in err
