"""Comparisons: a failing method is reported with its reason, and finished measurements are kept."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmsteer.baselines.budget import TrainingBudget
from lmsteer.data.labelled import LabelledSource
from lmsteer.errors import DataError, InterruptedWorkError, SteerError
from lmsteer.evaluation.compare import memory
from lmsteer.evaluation.compare import run as module
from lmsteer.evaluation.compare.config import ComparisonConfig
from lmsteer.evaluation.compare.memory import peak_memory
from lmsteer.evaluation.compare.report import comparison_report
from lmsteer.evaluation.compare.results import (
    SOUND,
    Comparison,
    LearningCurvePoint,
    MethodResult,
    score_range,
)
from lmsteer.evaluation.compare.run import MethodError, compare, run_in_process, run_in_subprocess
from lmsteer.evaluation.intervals import Estimate
from lmsteer.evaluation.metadata import comparison_metadata
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.results import ConditionResult
from lmsteer.evaluation.scorers import Vader
from lmsteer.generation.config import Limits
from lmsteer.steer.files import load_steer
from tiny import styled, tiny_lm

CONFIG = ComparisonConfig(
    "tiny", LabelledSource("texts.jsonl"), ["a prompt"], "sentiment", instructions=("low", "high")
)


def condition(strength: float, score: float, perplexity: float, rep_3: float = 0.0) -> ConditionResult:
    zero, both = Estimate(0.0, 0.0, 0.0), Estimate(score, score, score)
    price = Estimate(perplexity, perplexity, perplexity)
    name = f"{strength:+g}"
    return ConditionResult(name, "m", strength, 1, 1, both, zero, zero, zero, zero, price, (1.0, 1.0, 1.0), rep_3)


RESULT = MethodResult(
    "steer", {"by_row": True}, 5, 20, 0, 1.0, 99, 1.0, 1.0, [condition(0, 0.5, 9), condition(1, 0.6, 9)], []
)


def saving(config, out, method):
    """A runner that measures nothing."""
    replace(RESULT, method=method).save(out / method)


@pytest.fixture
def python(monkeypatch, tmp_path):
    """Replace the Python of the process that measures a method by a script."""

    def make(script: str) -> None:
        file = tmp_path / "python"
        file.write_text(f"#!{sys.executable}\nimport json, os, pathlib, signal, sys\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(module.sys, "executable", str(file))

    return make


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, as systems do when memory is exhausted"),
        ("print('no such module'); sys.exit(2)", "no such module"),
        ("raise RuntimeError('not enough memory: you tried to allocate 9 TB')", "RuntimeError: not enough memory"),
        ("sys.exit(7)", "ended with status 7"),
    ],
)
def test_a_failing_process_is_reported_and_the_others_run(python, tmp_path, script, reason):
    text = json.dumps(RESULT.to_json())
    python(f"if sys.argv[4] == 'lora':\n    {script}\npathlib.Path(sys.argv[5], 'result.json').write_text({text!r})")
    comparison = compare(CONFIG, ["lora", "steer"], tmp_path / "c")
    assert comparison.methods == [RESULT]
    assert reason in comparison.failures["lora"]


def test_a_comparison_of_which_nothing_is_left_is_refused_with_the_reasons(tmp_path):
    def failing(config, out, method):
        raise SteerError(f"no {method} today")

    with pytest.raises(MethodError, match=r"no method could be measured\. lora: no lora today steer: no steer today"):
        compare(CONFIG, ["lora", "steer"], tmp_path / "c", runner=failing)


def test_finished_methods_are_not_measured_again_and_failed_ones_are(tmp_path):
    def failing(config, out, method):
        calls.append(method)
        if method == "lora" and len(calls) == 1:
            raise SteerError("no lora today")
        saving(config, out, method)

    calls = []
    first = compare(CONFIG, ["lora", "steer"], tmp_path / "c", runner=failing)
    assert first.failures == {"lora": "no lora today"}
    second = compare(CONFIG, ["lora", "steer"], tmp_path / "c", runner=failing)
    assert calls == ["lora", "steer", "lora"]
    assert [one.method for one in second.methods] == ["lora", "steer"]
    assert second.failures == {}


def test_a_stopped_comparison_says_how_to_resume(tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(InterruptedWorkError, match="Run the same command again"):
        compare(CONFIG, ["steer"], tmp_path / "c", runner=stopped)
    assert [one.method for one in compare(CONFIG, ["steer"], tmp_path / "c", runner=saving).methods] == ["steer"]


def test_another_configuration_and_other_folders_are_refused(tmp_path):
    compare(CONFIG, ["steer"], tmp_path / "c", runner=saving)
    with pytest.raises(DataError, match="a comparison with another model, scorer"):
        compare(replace(CONFIG, model="other", scorer="toxicity"), ["steer"], tmp_path / "c", runner=saving)
    (tmp_path / "c" / "steer" / "result.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        compare(CONFIG, ["steer"], tmp_path / "c", runner=saving)
    (tmp_path / "full").mkdir()
    Path(tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds no comparison"):
        compare(CONFIG, ["steer"], tmp_path / "full", runner=saving)
    with pytest.raises(DataError, match="nothing to compare"):
        compare(CONFIG, [], tmp_path / "n", runner=saving)
    with pytest.raises(DataError, match="unknown methods magic"):
        compare(CONFIG, ["magic"], tmp_path / "n", runner=saving)
    (tmp_path / "c" / "run.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        compare(CONFIG, ["steer"], tmp_path / "c", runner=saving)


def test_a_configuration_and_results_survive_json():
    record = json.loads(json.dumps(CONFIG.to_json()))
    assert json.loads(json.dumps(ComparisonConfig.from_json(record).to_json())) == record
    assert ComparisonConfig.from_json(record).budget == CONFIG.budget
    point = LearningCurvePoint(8, 0, 0.1, 0.2, "")
    result = replace(RESULT, learning_curve=[point], peak_memory_bytes=None)
    assert MethodResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_sizes_out_of_range_are_refused():
    with pytest.raises(DataError, match="two texts or more"):
        replace(CONFIG, train_sizes=[1])
    with pytest.raises(DataError, match="1 or more"):
        replace(CONFIG, num_seeds=0)
    with pytest.raises(DataError, match="there are 240 texts"):
        replace(CONFIG, train_sizes=[8, 99999]).check_sizes(240)


def test_the_score_range_counts_sound_text_alone():
    base, wild = condition(0, 0.5, 10.0, rep_3=0.05), 10.0 * SOUND + 0.1
    rows = [
        base,
        condition(1, 0.6, 11),
        condition(2, 0.7, 15),
        condition(4, 0.9, wild),
        condition(8, 0.95, 8, rep_3=0.2),  # degenerate text is easy to predict
        condition(3, 0.72, 12, rep_3=0.055),
        condition(-1, 0.45, 10),
        condition(-2, 0.1, wild),
    ]
    up, down = score_range(rows)
    assert (up, down) == (pytest.approx(0.22), pytest.approx(0.05))
    assert score_range([base, condition(1, 0.4, 10)]) == (0.0, 0.0)


def test_peak_memory_is_that_of_the_device(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123)
    assert peak_memory(torch.device("cuda")) == 123
    assert peak_memory(torch.device("cpu")) > 1e7


def test_peak_memory_is_unknown_without_the_resource_module(monkeypatch):
    import torch

    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_memory(torch.device("cpu")) is None


@pytest.fixture(scope="module")
def tiny_config(tmp_path_factory):
    """A comparison on a tiny model in a folder, with a learning curve."""
    folder = tmp_path_factory.mktemp("compare")
    lm = tiny_lm("llama")
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    rows = [json.dumps({"text": text.text, "label": text.label}) for text in styled(120)]
    (folder / "texts.jsonl").write_text("\n".join(rows))
    return ComparisonConfig(
        str(folder / "model"),
        LabelledSource(str(folder / "texts.jsonl")),
        ["the", "abc"],
        "sentiment-vader",
        budget=TrainingBudget(steps=2, batch_size=4),
        protocol=Protocol(num_samples=1, max_new_tokens=3, limits=Limits(kl=2.0)),
        train_sizes=[2, 120],
    )


def test_a_method_is_fitted_and_measured(tiny_config, tmp_path):
    comparison = compare(tiny_config, ["steer", "activations"], tmp_path / "c", runner=run_in_process)
    assert comparison.failures == {}
    steer, activations = comparison.methods
    assert steer.parameters == sum(f.numel() for f in load_steer(tmp_path / "c" / "steer" / "fitted").factors.values())
    for result in (steer, activations):
        assert result.fit_seconds > 0
        assert result.peak_memory_bytes > 1e7
        assert result.time_per_token > 0
        assert result.time_to_first_token > 0
        assert [(point.texts, point.seed) for point in result.learning_curve] == [(2, 0), (120, 0)]
        assert not result.learning_curve[1].error
    assert steer.learning_curve[0].error  # two texts are too few for the closed form
    # Unsteered text is generated once.
    names = [len(steer.conditions), len(activations.conditions)]
    assert names == [1 + 8, 1 + 12]
    files = len(list((tmp_path / "c" / "continuations" / "rows").iterdir()))
    assert files <= 1 + 2 * 8 + 2 * 12
    page = comparison_report(comparison, comparison_metadata(tiny_config, 120, Vader()))
    assert "Learning curves" in page
    assert f"not fitted: {steer.learning_curve[0].error}" in page
    assert json.dumps(comparison.to_json())


def test_a_method_is_measured_in_a_process_of_its_own(tiny_config, tmp_path):
    config = replace(tiny_config, train_sizes=())
    comparison = compare(config, ["activations"], tmp_path / "c", runner=run_in_subprocess)
    assert comparison.failures == {}
    assert comparison.methods[0].parameters == 32


def test_the_report_shows_failures():
    page = comparison_report(Comparison([RESULT], {"lora": "<no> memory"}), {"model": "m", "scorer": "s"})
    assert "&lt;no&gt; memory" in page
    assert "<td>steer</td>" in page


def test_quick_comparisons_generate_few_tokens_and_never_more_than_asked_for():
    assert CONFIG.quick().protocol.max_new_tokens == 8
    assert replace(CONFIG, protocol=replace(CONFIG.protocol, max_new_tokens=4)).quick().protocol.max_new_tokens == 4
