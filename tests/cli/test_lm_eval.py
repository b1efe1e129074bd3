"""lm-eval hands its arguments to lm-evaluation-harness, with a steered model."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path

import lm_eval.__main__
import pytest
import yaml
from lm_eval import evaluator

from lmsteer.cli.lm_eval import with_model
from lmsteer.errors import DataError
from lmsteer.evaluation.harness import SteeredLM

LINES = [{"text": "ab", "choices": ["cd", "xyz"], "answer": 0}, {"text": "The", "choices": ["x", "abc"], "answer": 1}]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """The harness sets up logging for a process, and lists all packages of a machine, which takes seconds."""
    monkeypatch.setattr(lm_eval.__main__, "setup_logging", lambda: None)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)


@pytest.fixture
def task(tmp_path):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES), "utf-8")
    data = {"data_files": {"test": str(tmp_path / "lines.jsonl")}, "cache_dir": str(tmp_path / "datasets")}
    content = {
        "task": "letters",
        "dataset_path": "json",
        "dataset_kwargs": data,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "letters.yaml").write_text(yaml.safe_dump(content), "utf-8")
    return str(tmp_path / "tasks")


def test_a_task_runs_under_a_steer(run, lm, task, tiny_folder):
    arguments = ["lm-eval", "--tasks", "letters", "--include_path", task, "--output_path", "found", "--log_samples"]
    status, out, err = run(*arguments, "--model_args", f"pretrained={tiny_folder},steers=one=3", model=False)
    assert status == 0, err
    assert "letters" in out
    (results,) = Path("found").rglob("results_*.json")
    found = json.loads(results.read_text("utf-8"))
    assert found["config"]["model"] == "lmsteer"
    assert found["config"]["steers"] == {"one": 3.0}
    assert found["results"]["letters"]["acc,none"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ("pretrained={model},steers=nobody=3", "unknown steer 'nobody'"),
        ("pretrained={model},steers=one", "write NAME=STRENGTH"),
        ("pretrained={model},peft=adapter", "does not know peft"),
    ],
)
def test_bad_input_ends_in_a_message_and_2(run, lm, task, tiny_folder, model_args, message):
    arguments = ["lm-eval", "--tasks", "letters", "--include_path", task, "--model_args"]
    status, _, err = run(*arguments, model_args.format(model=tiny_folder), model=False)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_task_is_named(run):
    status, _, err = run("lm-eval", "--tasks", "nothing_of_the_kind", model=False)
    assert status == 2
    assert "lmsteer: lm-evaluation-harness: Tasks not found: nothing_of_the_kind" in err


OURS, ROWS = ["--model", "lmsteer"], ["--batch_size", "64"]


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["--tasks", "blimp"], [*OURS, *ROWS]),
        (["run", "--tasks", "blimp"], [*OURS, *ROWS]),
        (["run", "--tasks", "blimp", "-b8"], OURS),
        (["--batch_size=8"], OURS),
        (["--tasks", "blimp", "--model", "hf"], []),
        (["--tasks", "blimp", "-Mhf"], []),
        (["run", "--model=vllm"], []),
        (["--config", "named.yaml"], []),
        (["--config=open.yaml"], [*OURS, *ROWS]),
        (["-C", "sized.yaml"], OURS),
        (["ls", "tasks"], []),
        ([], []),
    ],
)
def test_the_model_is_a_steered_one_unless_another_is_named(tmp_path, monkeypatch, arguments, added):
    monkeypatch.chdir(tmp_path)
    Path("named.yaml").write_text("model: hf\ntasks: [blimp]\n")
    Path("open.yaml").write_text("tasks: [blimp]\n")
    Path("sized.yaml").write_text("tasks: [blimp]\nbatch_size: 8\n")
    assert with_model(arguments) == [*arguments, *added]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("model: [hf", "is not YAML")])
def test_a_file_of_settings_that_cannot_be_read_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(DataError, match=f"run.yaml {message}"):
        with_model(["--config", str(tmp_path / "run.yaml")])


def test_without_the_harness_the_command_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    status, _, err = run("lm-eval", "--tasks", "blimp", model=False)
    assert status == 2
    assert "pip install 'lmsteer[eval]'" in err


def test_the_harness_finds_the_model_by_name():
    (found,) = entry_points(group="lm_eval.models", name="lmsteer")
    assert found.load() is SteeredLM
