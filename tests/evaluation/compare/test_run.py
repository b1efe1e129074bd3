"""Comparisons: what fails is told with its reason, and what was measured is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lmsteer.data.labelled import LabelledSource
from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.evaluation.compare import run as module
from lmsteer.evaluation.compare.run import compare
from lmsteer.evaluation.compare.worker import SOUND, ComparisonConfig, MethodResult, reach
from lmsteer.evaluation.results import ConditionResult, Estimate

PLAN = ComparisonConfig("tiny", LabelledSource("texts.jsonl"), ["a prompt"], "sentiment", instructions=("low", "high"))


def outcome(strength: float, score: float, perplexity: float, rep_3: float = 0.0) -> ConditionResult:
    one = Estimate(0.0, 0.0, 0.0)
    told = dict.fromkeys(("expected_max", "expected_min", "probability_any_above", "probability_any_below"), one)
    figures = {"score": Estimate(score, score, score), "perplexity": Estimate(perplexity, perplexity, perplexity)}
    name, distinct = f"{strength:+g}", (1.0, 1.0, 1.0)
    return ConditionResult(name, "m", strength, 1, 1, **told, **figures, distinct=distinct, rep_3=rep_3)


@pytest.fixture
def contender(monkeypatch, tmp_path):
    """Stands in for the process that measures a method: a script."""

    def made(script: str) -> None:
        file = tmp_path / "python"
        file.write_text(f"#!{sys.executable}\nimport json, os, pathlib, signal, sys\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(file))

    return made


FOUND = MethodResult(
    "steer", {"by_row": True}, 5, 20, 0, 1.0, 99, 1.0, 1.0, [outcome(0, 0.5, 9), outcome(1, 0.6, 9)], []
)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, as systems do to what needs more memory"),
        ("print('no such module'); sys.exit(2)", "no such module"),
        ("raise RuntimeError('not enough memory: you tried to allocate 9 TB')", "RuntimeError: not enough memory"),
        ("sys.exit(7)", "ended with status 7"),
    ],
)
def test_what_fails_is_told_with_its_reason_and_the_others_go_on(contender, tmp_path, script, reason):
    text = json.dumps(FOUND.to_json())
    contender(
        f"if sys.argv[4] == 'lora':\n    {script}\npathlib.Path(sys.argv[5], 'contender.json').write_text({text!r})"
    )
    found = compare(PLAN, ["lora", "steer"], tmp_path / "c")
    assert [each.to_json() for each in found.contenders] == [FOUND.to_json()]
    assert reason in found.failures["lora"]
    again = compare(PLAN, ["steer"], tmp_path / "c")  # and is not measured again
    assert (again.failures, len(again.contenders)) == ({}, 1)


def test_a_stopped_comparison_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.subprocess, "run", stopped)
    with pytest.raises(InterruptedWorkError, match="The same command goes on from there"):
        compare(PLAN, ["steer"], tmp_path / "c")


def test_another_plan_and_other_folders_are_refused(contender, tmp_path):
    contender(f"pathlib.Path(sys.argv[5], 'contender.json').write_text({json.dumps(FOUND.to_json())!r})")
    compare(PLAN, ["steer"], tmp_path / "c")
    with pytest.raises(DataError, match="a comparison of another model, scorer"):
        compare(
            ComparisonConfig("other", PLAN.source, PLAN.prompts, "toxicity", instructions=PLAN.instructions),
            ["steer"],
            tmp_path / "c",
        )
    (tmp_path / "c" / "steer" / "contender.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        compare(PLAN, ["steer"], tmp_path / "c")
    (tmp_path / "full").mkdir()
    Path(tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds no comparison"):
        compare(PLAN, ["steer"], tmp_path / "full")
    with pytest.raises(DataError, match="nothing to compare"):
        compare(PLAN, [], tmp_path / "n")
    (tmp_path / "c" / "plan.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        compare(PLAN, ["steer"], tmp_path / "c")


def test_a_plan_is_read_as_it_was_written():
    told = json.loads(json.dumps(PLAN.to_json()))
    assert json.loads(json.dumps(ComparisonConfig.from_json(told).to_json())) == told
    assert ComparisonConfig.from_json(told).budget == PLAN.budget


def test_reach_counts_sound_text_alone():
    base, wild = outcome(0, 0.5, 10.0, rep_3=0.05), 10.0 * SOUND + 0.1
    rows = [
        base,
        outcome(1, 0.6, 11),
        outcome(2, 0.7, 15),
        outcome(4, 0.9, wild),
        outcome(8, 0.95, 8, rep_3=0.2),  # loops are easy to foretell
        outcome(3, 0.72, 12, rep_3=0.12),
        outcome(-1, 0.45, 10),
        outcome(-2, 0.1, wild),
    ]
    up, down = reach(rows)
    assert (up, down) == (pytest.approx(0.22), pytest.approx(0.05))
    assert reach([base, outcome(1, 0.4, 10)]) == (0.0, 0.0)
