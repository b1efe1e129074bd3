"""compare: methods beside each other; one that fails, or is stopped, does not end the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmsteer.evaluation.compare.run import run_in_process

LINE = ("compare", "letters.jsonl", "--quick", "--out", "c", "--scorer", "sentiment-vader", "--max-new-tokens", "6")


@pytest.fixture
def in_process(monkeypatch):
    """Methods are measured in this process, which starts sooner."""
    monkeypatch.setattr("lmsteer.evaluation.compare.run.run_in_subprocess", run_in_process)


def test_a_method_is_measured_in_a_process_of_its_own(run):
    status, out, _ = run(*LINE, "--methods", "steer", "--json")
    assert status == 0
    (line,) = json.loads(out)["summary"]
    assert (line["method"], line["context"]) == ("steer", 0)
    assert line["peak_memory_bytes"] > 1e7


@pytest.mark.usefixtures("in_process")
def test_methods_are_measured(run):
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


@pytest.mark.usefixtures("in_process")
def test_a_searched_training_says_so(run):
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    status, out, _ = run(*LINE, "--methods", "lora-head", "--search", "--json")
    assert status == 0
    assert "chosen on held-out texts" in json.loads(out)["metadata"]["training"]
    card = json.loads(next(Path("c").rglob("adapter.json")).read_text())["card"]
    assert len(card["fit"]["tried"]) == 4
    assert run(*LINE, "--methods", "lora-head")[0] == 2  # another comparison than the folder's


@pytest.mark.usefixtures("in_process")
def test_fits_of_fewer_texts_are_measured_and_their_errors_are_reported(run):
    Path("prompts.txt").write_text("the\n")
    options = "--out g --scorer sentiment-vader --max-new-tokens 4 --num-samples 2 --json --prompts prompts.txt"
    sizes = "--methods steer,activations --train-sizes 2,120 --num-seeds 2"
    status, out, _ = run("compare", "letters.jsonl", *options.split(), *sizes.split())
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


@pytest.mark.usefixtures("in_process")
def test_a_folder_of_something_else_is_refused(run):
    Path("c").mkdir()
    Path("c/notes.txt").write_text("mine")
    status, _, err = run(*LINE, "--methods", "steer")
    assert status == 2
    assert "holds no comparison" in err


def test_no_method_is_not_all_of_them(run):
    status, _, err = run(*LINE, "--methods", "")
    assert status == 2
    assert "--methods has an empty name in ''" in err


@pytest.mark.usefixtures("in_process")
def test_a_method_that_fails_does_not_end_the_others(run):
    """The first cannot write to its folder; it is measured once it can."""
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")
    assert run(*LINE, "--methods", "steer")[0] == 0
    Path("c/lora").mkdir()
    Path("c/lora/fitted").write_text("in the way")
    status, out, _ = run(*LINE, "--methods", "lora,steer", "--json")
    assert status == 0
    result = json.loads(out)
    assert [line["method"] for line in result["summary"]] == ["steer"]
    assert "exists and holds no baseline" in result["failures"]["lora"]
    status, out, _ = run(*LINE, "--methods", "lora,steer")
    assert status == 0
    assert "lora failed:" in out
    Path("c/lora/fitted").unlink()
    status, out, _ = run(*LINE, "--methods", "lora,steer", "--json")
    assert [line["method"] for line in json.loads(out)["summary"]] == ["lora", "steer"]


def test_an_interrupted_comparison_is_resumed(run, monkeypatch):
    pytest.importorskip("peft", reason="the extra 'methods' is not installed")

    def interrupted(config, out, method) -> None:
        if method == "lora":
            raise KeyboardInterrupt
        run_in_process(config, out, method)

    monkeypatch.setattr("lmsteer.evaluation.compare.run.run_in_subprocess", interrupted)
    status, _, err = run(*LINE, "--methods", "steer,lora")
    assert status == 130
    assert "Run the same command again" in err
    before = Path("c/steer/result.json").stat().st_mtime_ns
    monkeypatch.setattr("lmsteer.evaluation.compare.run.run_in_subprocess", run_in_process)
    status, out, _ = run(*LINE, "--methods", "steer,lora", "--json")
    assert status == 0
    assert [line["method"] for line in json.loads(out)["summary"]] == ["steer", "lora"]
    assert Path("c/steer/result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "magic"], "unknown methods magic: there are steer, deep-steer, lora-steer, lora"),
        (["--methods", "prompting"], "needs --negative-prompt and --positive-prompt"),
        (["--positive-prompt", "Be good."], "give both"),
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
