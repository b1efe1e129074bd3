"""The command line: good input works end to end, bad input ends in a message and exit status 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmsteer.cli import main
from lmsteer.steers.files import load_steer, save_steer
from tiny import random_steer, styled, tiny_lm


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    lm = tiny_lm("llama")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"text": t.text, "label": t.label} for t in styled(240)]
    Path("letters.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def run(tiny_folder, monkeypatch, capsys):
    def call(*arguments: str, model: bool = True) -> tuple[int, str, str]:
        line = ["lmsteer", *arguments, *(["--model", str(tiny_folder)] if model else [])]
        monkeypatch.setattr(sys, "argv", line)
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, " ".join(captured.err.split())

    return call


def test_fit_generate_verify(run):
    status, out, _ = run("fit", "letters.jsonl", "--name", "letters", "--label", "early letters", "--json")
    assert status == 0
    assert json.loads(out)["card"]["label"] == "early letters"
    status, out, _ = run("generate", "abc", "--steer", "letters=-3,0,3", "--n", "2", "--json")
    assert status == 0
    assert [g["strengths"]["letters"] for g in json.loads(out)["generations"]] == [-3, -3, 0, 0, 3, 3]
    status, out, _ = run("verify", "letters", "--json")
    assert status == 0
    assert json.loads(out)["reading"]["signs"] > 0.9
    status, out, _ = run("verify", "letters")
    assert status == 0
    assert "ok" in out
    status, out, _ = run("generate", "abc", "[b]x", "--steer", "letters=1")
    assert status == 0
    assert "[b]x" in out


def test_generate_writes_a_file_and_reads_one(run, tmp_path):
    Path("prompts.txt").write_text("abc\nxyz\n")
    assert run("generate", "--file", "prompts.txt", "--out", "o.jsonl")[0] == 0
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


def test_a_stream_is_what_generate_gives(run):
    status, out, _ = run("generate", "abc", "--stream", "--max-new-tokens", "9")
    assert status == 0
    status, whole, _ = run("generate", "abc", "--json", "--max-new-tokens", "9")
    assert out == "abc" + json.loads(whole)["generations"][0]["text"] + "\n"
    for more in (["xyz"], ["--n", "2"], ["--json"]):
        status, _, err = run("generate", "abc", "--stream", *more)
        assert status == 2
        assert "one continuation" in err


def test_verify_of_a_steer_that_does_nothing_exits_with_1(run):
    lm = tiny_lm("llama")
    steer = random_steer(lm, "add")
    save_steer(type(steer)("add", {"a": torch.zeros(32)}, 32, steer.vocabulary, steer.card), "dead")
    status, out, _ = run("verify", "dead")
    assert status == 1
    assert "FAILED" in out


def test_names_that_look_like_markup_are_printed_as_they_are(run):
    status, out, _ = run("fit", "letters.jsonl", "--name", "[old]", "--out", "a[/b]")
    assert status == 0
    assert "[old]" in out
    assert "a[/b]" in out


def test_import_makes_a_steer(run):
    import argparse

    factors = {"projector1": torch.randn(1, 32, 4), "projector2": torch.randn(1, 32, 4)}
    torch.save([argparse.Namespace(epsilon=1e-3), factors, 7], "c.pt")
    assert run("import", "c.pt", "--name", "old")[0] == 0
    assert load_steer("steers/old").rank == 4
    assert run("import", "c.pt", "--name", "old", "--out", "my/own")[0] == 0
    assert load_steer("my/own").card.name == "old"


def test_what_is_no_checkpoint_is_refused(run):
    for content in (b"text,label\n", b"\x80\x02.", b"", b"PK\x03\x04"):
        Path("c.pt").write_bytes(content)
        status, _, err = run("import", "c.pt", "--name", "old")
        assert status == 2
        assert "not a published checkpoint" in err


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
    assert "positive ones at +1" in out
    assert "nan" not in out
    assert "negative ones" not in out
    status, out, _ = run("verify", "letters", "--data", "up.jsonl", "--json")
    assert json.loads(out, parse_constant=lambda name: pytest.fail(name))["reading"]["gain_negative"] is None
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


def test_few_texts_are_said_to_be_few(run):
    Path("few.jsonl").write_text("\n".join(json.dumps({"text": t.text, "label": t.label}) for t in styled(120)))
    assert "which is few" in run("fit", "few.jsonl", "--name", "few")[1]
    assert "which is few" not in run("fit", "letters.jsonl", "--name", "many")[1]


def test_the_cache_is_listed_and_cleared(run):
    run("fit", "letters.jsonl", "--name", "letters", "--store")
    listed = json.loads(run("cache", "--json", model=False)[1])
    assert {entry["kind"] for entry in listed} == {"states", "curvature"}
    assert "240 texts" in run("cache", model=False)[1]
    assert run("cache", "--clear", "all", "--json", model=False)[0] == 0
    assert json.loads(run("cache", "--json", model=False)[1]) == []
    status, _, err = run("cache", "--clear", "everything", model=False)
    assert status == 2
    assert "states" in err


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


def test_one_sided_parts_are_kept_and_fitted_together(run):
    texts = styled(240)
    for name, label in (("early", 1.0), ("late", -1.0)):
        rows = [json.dumps({"text": t.text, "label": t.label}) for t in texts if t.label == label]
        Path(f"{name}.jsonl").write_text("\n".join(rows))
    status, _, err = run("fit", "early.jsonl", "--name", "l", "--save-statistics", "stats")
    assert status == 2
    assert "both ends" in err
    assert run("fit", "late.jsonl", "--name", "l", "--statistics", "stats")[0] == 0


BAD = {
    "limit": (["fit", "letters.jsonl", "--name", "x", "--limit", "-3"], "limit must be"),
    "max tokens": (["fit", "letters.jsonl", "--name", "x", "--max-tokens", "0"], "two is the least"),
    "steps": (["fit", "letters.jsonl", "--name", "x", "--method", "gradient", "--steps", "0"], "must be one or more"),
    "batch size": (["generate", "x", "--batch-size", "-1"], "batch size"),
    "out is a file": (["fit", "letters.jsonl", "--name", "x", "--out", "letters.jsonl"], "holds no steer"),
    "out is full": (["fit", "letters.jsonl", "--name", "x", "--out", "."], "holds no steer"),
    "no data": (["fit", "--name", "x"], "nothing to fit"),
    "no name": (["fit", "letters.jsonl"], "--name"),
    "no such file": (["fit", "gone.jsonl", "--name", "x"], "no such file"),
    "unknown method": (["fit", "letters.jsonl", "--name", "x", "--method", "magic"], "closed-form or gradient"),
    "rank out of range": (["fit", "letters.jsonl", "--name", "x", "--rank", "99"], "rank must be"),
    "no label column": (["fit", "letters.jsonl", "--name", "x", "--label-column", "y"], "no column 'y'"),
    "empty file": (["fit", "empty.jsonl", "--name", "x"], "holds 0 texts"),
    "unknown steer": (["generate", "x", "--steer", "nobody=1"], "unknown steer 'nobody'"),
    "strength nan": (["generate", "x", "--steer", "s=nan"], "finite"),
    "strength inf": (["generate", "x", "--steer", "s=inf"], "finite"),
    "no prompts": (["generate"], "no prompts"),
    "verify unknown": (["verify", "nobody"], "unknown steer"),
    "other base": (["generate", "x", "--steer", "other=1"], "was fitted on"),
    "no statistics": (["fit", "--name", "x", "--statistics", "gone"], "no whole statistics in"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_a_message_and_2(run, case):
    Path("empty.jsonl").touch()
    save_steer(random_steer(tiny_lm("qwen3")), "other")
    arguments, message = BAD[case]
    status, out, err = run(*arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not Path("steers").exists()


def test_a_wrong_model_ends_in_2(run):
    status, _, err = run("generate", "x", "--model", "./nowhere", model=False)
    assert status == 2
    assert "no such file or folder" in err


def test_usage_errors_exit_with_2(run):
    assert run("generate", "--temperature", "hot")[0] == 2


def test_every_command_has_help_with_an_example(run):
    for command in ("fit", "generate", "verify", "import", "demo"):
        status, out, _ = run(command, "--help", model=False)
        assert status == 0
        assert f"lmsteer {command}" in out


def test_ctrl_c_keeps_what_was_gathered_and_names_the_way_on(tiny_folder, tmp_path):
    rows = [{"text": t.text * 6, "label": t.label} for t in styled(12000)]
    Path("many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "-m", "lmsteer", "fit", "many.jsonl", "--name", "x", "--model", str(tiny_folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    # The curvature is kept just before the pass begins, which takes half a minute.
    waited = time.monotonic() + 60
    while not list(Path(os.environ["LMSTEER_CACHE"]).glob("curvature-*")) and time.monotonic() < waited:
        time.sleep(0.05)
    time.sleep(5)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 2, err
    assert "--resume" in " ".join(err.split())
    assert Path("steers/x.partial/statistics.json").exists()


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
    status, out, _ = run("lens", "letters=-1", "--components", "1")
    assert status == 0
    assert "likelier words" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyse", "--steer", "letters"], "nothing to read: give a text"),
        (["analyse", "abc"], "no steer to read the texts by"),
        (["analyse", "abc", "--steer", "nosuch"], "unknown steer 'nosuch'"),
        (["analyse", "abc", " ", "--steer", "letters"], "text 2 is empty"),
        (["analyse", "abc", "--steer", "letters", "--window", "1"], "a window of 1 tokens"),
        (["analyse", "abc", "--steer", "letters", "--spans", "-1"], "cannot find -1 spans"),
        (["analyse", "--file", "nosuch.txt", "--steer", "letters"], "nosuch.txt"),
        (["analyse", "abc", "--steer", "letters", "--html", "letters.jsonl/page.html"], "cannot write"),
        (["lens", "letters=1,2"], "one strength of each steer"),
        (["lens", "letters=x"], "cannot read 'letters=x'"),
        (["lens", "letters", "--picture", "map.docx"], "name it .svg, .png or .pdf"),
        (["lens", "letters=0"], "does nothing"),
    ],
)
def test_analyse_and_lens_refuse_what_makes_no_sense(run, tiny_folder, arguments, message):
    from lmsteer.lm import load

    save_steer(random_steer(load(tiny_folder)), "steers/letters")
    status, _, err = run(*arguments)
    assert status == 2
    assert message in err
