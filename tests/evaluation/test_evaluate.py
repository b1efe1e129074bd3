"""Evaluations: what is told is what was written, blocks that are there are not written again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import processors

from lmsteer.errors import DataError, InterruptedWorkError, ScorerError, WrongBaseError
from lmsteer.evaluation import conditions as arms_module
from lmsteer.evaluation import evaluate as module
from lmsteer.evaluation.conditions import BASELINES, Condition, conditions_of
from lmsteer.evaluation.evaluate import continuation_likelihoods, evaluate
from lmsteer.evaluation.interference import steer_evidence
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.report import report
from lmsteer.evaluation.results import ConditionResult, ScoredContinuation
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from tiny import random_steer, tiny_tokenizer

PROMPTS = [f"{letter}bc" for letter in "abcdefghijklmnopqrstuvwx"]
SMALL = Protocol(num_samples=3, max_new_tokens=6)


class Long:
    """Judges by length."""

    name, fingerprint, about = "long", "1", ()

    def scores(self, texts):
        return [min(len(text) / 10, 1.0) for text in texts]


@pytest.fixture(scope="module")
def arms(llama):
    return conditions_of(llama, {"s": random_steer(llama)}, {"s": [-2.0, 3.0]}, BASELINES, ["Bad. ", "Good. "])


def test_what_is_told_is_of_what_was_written(llama, arms, tmp_path):
    chosen = [arm for arm in arms if arm.name in ("unsteered", "s=+3", "prompt & s=+3")]
    found = evaluate(llama, PROMPTS, chosen, Long(), tmp_path / "e", protocol=SMALL)
    assert [each.name for each in found] == [arm.name for arm in chosen]
    assert [each["name"] for each in json.loads((tmp_path / "e" / "results.json").read_text())] == [
        each.name for each in found
    ]
    for arm, each in zip(chosen, found, strict=True):
        written = [
            row
            for start in (0, 20)
            for row in generate(
                llama,
                [arm.prefix + prompt for prompt in PROMPTS[start : start + 20]],
                arm.steers,
                [dict(arm.strengths)],
                GenerationConfig(3, 6, seed=hash((0, start // 20))),
            )
        ]
        assert (each.prompts, each.continuations) == (24, 72)
        scores = torch.tensor(Long().scores([row.text for row in written])).reshape(24, 3)
        assert each.score.mean == pytest.approx(float(scores.mean()))
        assert each.expected_max.mean == pytest.approx(float(scores.amax(1).mean()))
        assert each.expected_min.mean == pytest.approx(float(scores.amin(1).mean()))
        assert each.probability_any_above.mean == pytest.approx(float((scores.amax(1) > 0.5).float().mean()))
        assert each.score.low <= each.score.mean <= each.score.high
        prompts = [prompt for prompt in PROMPTS for _ in range(3)]
        read = continuation_likelihoods(llama, prompts, [row.text for row in written])
        nats = -sum(log_p for log_p, _ in read) / sum(tokens for _, tokens in read)
        assert each.perplexity.mean == pytest.approx(float(torch.tensor(nats).exp()), rel=1e-4)  # batches differ


def test_continuations_are_read_after_their_prompts(llama):
    ((log_p, tokens), (nothing, none)) = continuation_likelihoods(llama, ["ab", "ab"], ["cd", ""])
    ids = torch.tensor([[llama.start_id, *llama.encode(["abcd"])[0]]])
    with torch.no_grad():
        line = llama.model(ids).logits.log_softmax(-1)[0]
    assert tokens == 2
    assert log_p == pytest.approx(float(line[2, ids[0, 3]] + line[3, ids[0, 4]]), abs=1e-4)  # float32
    assert (nothing, none) == (0.0, 0)


def test_the_end_of_a_text_is_nobodys(llama):
    ended = tiny_tokenizer()
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    found = continuation_likelihoods(replace(llama, tokenizer=ended), ["ab"], ["cd"])
    assert found == continuation_likelihoods(llama, ["ab"], ["cd"])


def test_texts_beyond_the_judges_context_are_read_in_windows(make_lm):
    gpt2 = make_lm("gpt2")
    ((log_p, tokens),) = continuation_likelihoods(gpt2, ["a" * 200], ["bcd"])
    assert tokens == 3
    assert log_p < 0


def test_the_best_of_several_is_that_of_most_evidence(llama, arms, tmp_path):
    for sign in ("-1", "+1"):
        arm = next(arm for arm in arms if arm.name == f"best of 8 {sign}")
        evaluate(llama, PROMPTS[:2], [arm], Long(), tmp_path / sign, protocol=SMALL)
        (file,) = (tmp_path / sign / "rows").iterdir()
        kept = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        texts = [row.text for row in generate(llama, PROMPTS[:2], config=GenerationConfig(24, 6, seed=hash((0, 0))))]
        (evidence,) = steer_evidence(llama, {"s": arm.reader}, texts).tolist()
        for k, text in enumerate(kept):
            group = range(8 * k, 8 * k + 8)
            assert text == texts[max(group, key=lambda i: arm.strength * evidence[i])]


def test_a_run_goes_on_where_it_stopped(llama, arms, tmp_path, monkeypatch):
    whole = evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "e", protocol=SMALL)
    calls = []
    judged = module._judged
    monkeypatch.setattr(module, "_judged", lambda *a: calls.append(a) or judged(*a))
    assert evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "e", protocol=SMALL) == whole
    assert calls == []
    sorted((tmp_path / "e" / "rows").iterdir())[1].unlink()
    assert evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "e", protocol=SMALL) == whole
    assert len(calls) == 1
    more = evaluate(llama, PROMPTS, arms[:3], Long(), tmp_path / "e", protocol=SMALL)
    assert more[:2] == whole
    assert len(calls) == 3


def test_whatever_a_model_writes_is_kept_as_it_is(llama, arms, tmp_path, monkeypatch):
    odd = [ScoredContinuation(0, "p", "one\u2028two\x85three\r\n\tfour", 0.75, -1.0, 3)] * 3
    monkeypatch.setattr(module, "_judged", lambda *_: odd)
    for _ in range(2):
        (found,) = evaluate(llama, PROMPTS[:1], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
        assert (found.continuations, found.score.mean) == (3, 0.75)


def test_ctrl_c_keeps_whole_parts_and_names_the_way_on(llama, arms, tmp_path, monkeypatch):
    judged, calls = module._judged, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judged(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_judged", interrupted)
        with pytest.raises(InterruptedWorkError, match="goes on from there"):
            evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "e", protocol=SMALL)
    assert len(list((tmp_path / "e" / "rows").iterdir())) == 1
    found = evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "e", protocol=SMALL)
    assert found == evaluate(llama, PROMPTS, arms[:2], Long(), tmp_path / "whole", protocol=SMALL)


def test_other_settings_and_other_folders_are_refused(llama, make_lm, arms, tmp_path):
    evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
    with pytest.raises(DataError, match="another prompts, num samples;"):
        evaluate(
            llama, PROMPTS[:3], arms[:1], Long(), tmp_path / "e", protocol=Protocol(num_samples=2, max_new_tokens=6)
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(DataError, match="holds no evaluation"):
        evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "full", protocol=SMALL)
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(llama, [], arms[:1], Long(), tmp_path / "new", protocol=SMALL)
    with pytest.raises(WrongBaseError):
        evaluate(make_lm("qwen2"), PROMPTS[:2], arms[1:2], Long(), tmp_path / "other", protocol=SMALL)


def test_a_scorer_that_fails_midway_is_named_and_the_run_goes_on(llama, arms, tmp_path):
    class Flaky(Long):
        left = 1

        def scores(self, texts):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("out of memory")
            return super().scores(texts)

    with pytest.raises(ScorerError, match=r"scorer long failed: RuntimeError: out of memory. It was to judge s=-2"):
        evaluate(llama, PROMPTS[:2], arms[:2], Flaky(), tmp_path / "e", protocol=SMALL)
    assert len(list((tmp_path / "e" / "rows").iterdir())) == 1
    found = evaluate(llama, PROMPTS[:2], arms[:2], Long(), tmp_path / "e", protocol=SMALL)
    assert found == evaluate(llama, PROMPTS[:2], arms[:2], Long(), tmp_path / "whole", protocol=SMALL)


@pytest.mark.parametrize("scores", [[0.5], [2.0] * 6, [float("nan")] * 6])
def test_scores_that_are_none_are_refused(llama, arms, tmp_path, scores):
    odd = Long()
    odd.scores = lambda _: scores
    with pytest.raises(ScorerError, match="a number from 0 to 1"):
        evaluate(llama, PROMPTS[:2], arms[:1], odd, tmp_path / "e", protocol=SMALL)


def test_another_judge_of_the_same_name_is_refused(llama, arms, tmp_path):
    evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
    refitted = Long()
    refitted.fingerprint = "2"
    with pytest.raises(DataError, match="another scorer fingerprint;"):
        evaluate(llama, PROMPTS[:2], arms[:1], refitted, tmp_path / "e", protocol=SMALL)


@pytest.mark.parametrize("name", ["s=+2", "words +4", "best of 8 +1"])
def test_another_steer_of_the_same_name_is_not_taken_for_it(llama, tmp_path, monkeypatch, name):
    monkeypatch.setattr(arms_module, "_LISTED", 5)
    found = []
    for seed in (0, 1):
        steers = {"s": random_steer(llama, seed=seed)}
        (arm,) = [arm for arm in conditions_of(llama, steers, {"s": [2.0]}, BASELINES[1:]) if arm.name == name]
        found.append(evaluate(llama, PROMPTS[:2], [arm], Long(), tmp_path / "e", protocol=SMALL)[0])
    assert found[0].perplexity != found[1].perplexity


@pytest.mark.parametrize("bad", [Protocol(num_samples=0), Protocol(top_p=2.0), Protocol(max_new_tokens=500)])
def test_what_is_out_of_range_is_refused_before_anything_is_kept(make_lm, tmp_path, bad):
    gpt2 = make_lm("gpt2")
    with pytest.raises(DataError):
        evaluate(gpt2, PROMPTS[:2], [Condition("unsteered", "unsteered", 0.0)], Long(), tmp_path / "e", protocol=bad)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("cut", ["", "{", '{"number": 0}', "[1]"])
def test_damaged_files_are_named(llama, arms, tmp_path, cut):
    evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
    (file,) = (tmp_path / "e" / "rows").iterdir()
    whole = file.read_text(encoding="utf-8")
    file.write_text(cut or whole[:-20], encoding="utf-8")
    with pytest.raises(DataError, match=r"is damaged: .* writes it anew"):
        evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
    (tmp_path / "e" / "settings.json").write_text(cut, encoding="utf-8")
    with pytest.raises(DataError, match=r"settings.json is damaged|another model"):
        evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)


def test_outcomes_are_kept_whole(llama, arms, tmp_path):
    (found,) = evaluate(llama, PROMPTS[:2], arms[:1], Long(), tmp_path / "e", protocol=SMALL)
    assert ConditionResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_report_shows_every_arm_and_takes_nothing_for_html(llama, arms, tmp_path):
    found = evaluate(llama, PROMPTS[:3], arms, Long(), tmp_path / "e", protocol=SMALL)
    found[1] = replace(found[1], name="a$\\frac$", method="a$\\frac$")  # no mathematics, for matplotlib
    about = {"model": "m", "steer": "<b>s</b>", "scorer": "long", "judge": "m"}
    page = report(found, about)
    assert page == report(found, about)
    for each in found:
        assert SimpleNamespace(name=each.name).name.replace("&", "&amp;") in page
    assert "<b>s</b>" not in page
    assert "data:image/svg+xml;base64," in page
    Path(tmp_path / "report.html").write_text(page, encoding="utf-8")
