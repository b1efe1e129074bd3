"""compare: methods beside each other; one that fails, or is stopped, does not end the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINE = ("compare", "letters.jsonl", "--quick", "--out", "c", "--scorer", "sentiment-vader", "--max-new-tokens", "6")


def test_methods_are_measured_and_failures_result(run):

    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    status, out, _ = run(*LINE, "--methods", "steer,lora,prompt-tuning", "--json")
    assert status == 0
    result = json.loads(out)
    assert [line["method"] for line in result["summary"]] == ["steer", "lora", "prompt-tuning"]
    assert result["failures"] == {}
    for line in result["summary"]:
        assert line["parameters"] > 0
        assert line["fit_seconds"] > 0
        assert line["peak_memory_bytes"] > 1e7
        assert line["time_per_token"] > 0
    assert [line["context"] for line in result["summary"]] == [0, 0, 10]
    page = Path("c/report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("steer", "lora", "prompt-tuning"))
    assert len(list(Path("c/continuations/rows").iterdir())) == 1 + 8 + 8 + 4  # unsteered, once, and every strength
    before = {file: file.stat().st_mtime_ns for file in Path("c").rglob("result.json")}
    assert run(*LINE, "--methods", "steer,lora,prompt-tuning")[0] == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_fits_of_fewer_texts_are_measured_too_and_say_why_they_get_nowhere(run):
    Path("prompts.txt").write_text("the\n")
    line = [
        "compare",
        "letters.jsonl",
        "--out",
        "g",
        "--scorer",
        "sentiment-vader",
        "--max-new-tokens",
        "4",
        "--num-samples",
        "2",
    ]
    line += [
        "--prompts",
        "prompts.txt",
        "--methods",
        "steer,activations",
        "--train-sizes",
        "2,120",
        "--num-seeds",
        "2",
        "--json",
    ]
    status, out, _ = run(*line)
    assert status == 0
    found = {each["method"]: each["learning_curve"] for each in json.loads(out)["methods"]}
    places = [(size, seed) for size in (2, 120) for seed in (0, 1)]
    assert all([(each["texts"], each["seed"]) for each in growth] == places for growth in found.values())
    failed = [each["error"] for growth in found.values() for each in growth if each["error"]]
    assert failed
    assert not any(each["error"] for growth in found.values() for each in growth if each["texts"] == 120)
    page = Path("g/report.html").read_text()
    assert "Learning curves" in page
    assert f"not fitted: {failed[0]}" in page


def test_a_method_that_fails_does_not_end_the_others(run, monkeypatch):
    """The second runs out of what it needs: its folder cannot be written to."""
    Path("c/lora").mkdir(parents=True)
    Path("c/lora/fitted").write_text("in the way")
    Path("c/run.json").write_text("")
    Path("c/run.json").unlink()
    status, _, err = run(*LINE, "--methods", "steer")
    assert status == 2
    assert "holds no comparison" in err
    Path("c/lora/fitted").unlink()
    Path("c/lora").rmdir()
    assert run(*LINE, "--methods", "steer")[0] == 0
    Path("c/lora").mkdir()
    Path("c/lora/fitted").write_text("in the way")
    status, out, _ = run(*LINE, "--methods", "lora,steer", "--json")
    assert status == 0
    result = json.loads(out)
    assert [line["method"] for line in result["summary"]] == ["steer"]
    assert "exists and holds no baseline" in result["failures"]["lora"]
    Path("c/lora/fitted").unlink()
    status, out, _ = run(*LINE, "--methods", "lora,steer", "--json")
    assert [line["method"] for line in json.loads(out)["summary"]] == ["lora", "steer"]


def test_a_stopped_comparison_goes_on(run, tiny_folder):
    line = [sys.executable, "-m", "lmsteer", *LINE, "--methods", "steer,lora", "--model", str(tiny_folder)]
    started = subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not Path("c/steer/result.json").exists():
        assert time.monotonic() < until
        assert started.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    started.send_signal(signal.SIGINT)
    said = started.communicate()[1]
    if started.returncode:  # else it was quicker than we are
        assert started.returncode == 2
        assert "Run the same command again" in " ".join(said.split())
    before = Path("c/steer/result.json").stat().st_mtime_ns
    status, out, _ = run(*LINE, "--methods", "steer,lora", "--json")
    assert status == 0
    assert len(json.loads(out)["summary"]) == 2
    assert Path("c/steer/result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "magic"], "unknown methods magic: there are steer, lora"),
        (["--methods", "prompting"], "needs --negative-prompt and --positive-prompt"),
        (["--train-sizes", "many"], "numbers of texts"),
        (["--train-sizes", "8,99999"], "there are 240 texts"),
        (["--train-sizes", "1"], "two texts or more"),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--scorer", "nobody"], "nobody"),
    ],
)
def test_bad_input_is_refused(run, more, message):
    status, _, err = run(*LINE, *more)
    assert status == 2
    assert message in err
    assert not Path("c").exists()
