"""Evaluations: results are those of the continuations, and finished blocks are not repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch
from tokenizers import processors

from lmsteer.data.chats import Chat
from lmsteer.errors import DataError, InterruptedWorkError, ScorerError, WrongBaseError
from lmsteer.evaluation import condition_sets
from lmsteer.evaluation.condition_sets import BASELINES, conditions_of
from lmsteer.evaluation.conditions import Unsteered
from lmsteer.evaluation.evaluate import continuation_likelihoods, evaluate
from lmsteer.evaluation.interference import steer_evidence
from lmsteer.evaluation.protocol import Protocol
from lmsteer.evaluation.report import report
from lmsteer.evaluation.results import ConditionResult
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.model.chat import encode_chat
from lmsteer.util.seeds import derived_seed
from tiny import chat_lm, random_steer, tiny_tokenizer

PROMPTS = [f"{letter}bc" for letter in "abcdefghijklmnopqrstuvwx"]
SMALL = Protocol(num_samples=3, max_new_tokens=6)


class Long:
    """Scores the length of texts."""

    name, fingerprint, metrics, is_probability = "long", "1", (), True

    def __init__(self):
        self.calls = 0

    def scores(self, texts):
        self.calls += 1
        return [min(len(text) / 10, 1.0) for text in texts]


class Failing(Long):
    """Raises an error at its second call."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def scores(self, texts):
        if self.calls:
            raise self.error
        return super().scores(texts)


@pytest.fixture(scope="module")
def conditions(llama):
    return conditions_of(llama, {"s": random_steer(llama)}, {"s": [-2.0, 3.0]}, BASELINES, ["Bad. ", "Good. "])


def run(lm, conditions, out, prompts=PROMPTS, scorer=None, protocol=SMALL):
    return evaluate(lm, prompts, conditions, scorer or Long(), out, protocol=protocol)


def texts_in(out):
    files = sorted((out / "rows").iterdir())
    return [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]


def test_results_are_those_of_the_continuations(llama, conditions, tmp_path):
    chosen = [condition for condition in conditions if condition.name in ("unsteered", "s=+3", "prompt & s=+3")]
    results = run(llama, chosen, tmp_path / "e")
    assert [result.name for result in results] == [condition.name for condition in chosen]
    saved = json.loads((tmp_path / "e" / "results.json").read_text())
    assert [result["name"] for result in saved] == [result.name for result in results]
    for condition, result in zip(chosen, results, strict=True):
        prefix, (steers, strengths) = getattr(condition, "prefix", ""), condition.steering
        rows = [
            row
            for block in (0, 1)
            for row in generate(
                llama,
                [prefix + prompt for prompt in PROMPTS[20 * block : 20 * (block + 1)]],
                steers,
                [dict(strengths)],
                GenerationConfig(3, 6, seed=derived_seed(0, block)),
            )
        ]
        assert (result.prompts, result.continuations) == (24, 72)
        scores = torch.tensor(Long().scores([row.text for row in rows])).reshape(24, 3)
        assert result.score.mean == pytest.approx(float(scores.mean()))
        assert result.expected_max.mean == pytest.approx(float(scores.amax(1).mean()))
        assert result.expected_min.mean == pytest.approx(float(scores.amin(1).mean()))
        assert result.probability_any_above.mean == pytest.approx(float((scores.amax(1) > 0.5).float().mean()))
        assert result.score.low <= result.score.mean <= result.score.high
        prompts = [prompt for prompt in PROMPTS for _ in range(3)]
        read = continuation_likelihoods(llama, prompts, [row.text for row in rows])
        nats = -sum(log_p for log_p, _ in read) / sum(tokens for _, tokens in read)
        assert result.perplexity.mean == pytest.approx(float(torch.tensor(nats).exp()), rel=1e-4)  # batches differ


def test_every_seed_has_texts_of_its_own(llama, tmp_path):
    texts = set()
    for seed in (0, -1, -2, 1 << 61):
        run(llama, [Unsteered()], tmp_path / str(seed), PROMPTS[:2], protocol=replace(SMALL, seed=seed))
        texts.add(tuple(texts_in(tmp_path / str(seed))))
    assert len(texts) == 4


def test_prompts_are_encoded_once_for_each_condition(llama, tmp_path):
    @dataclass(frozen=True)
    class Counted(Unsteered):
        def prefill(self, lm, prompts, new_tokens):
            calls.append(len(prompts))
            return super().prefill(lm, prompts, new_tokens)

    calls = []
    run(llama, [Counted()], tmp_path / "e")
    assert calls == [len(PROMPTS)]


def test_continuations_are_read_after_their_prompts(llama):
    ((log_p, tokens), (nothing, none)) = continuation_likelihoods(llama, ["ab", "ab"], ["cd", ""])
    ids = torch.tensor([[llama.start_id, *llama.encode(["abcd"])[0]]])
    with torch.no_grad():
        line = llama.model(ids).logits.log_softmax(-1)[0]
    assert tokens == 2
    assert log_p == pytest.approx(float(line[2, ids[0, 3]] + line[3, ids[0, 4]]), abs=1e-4)  # float32
    assert (nothing, none) == (0.0, 0)


def test_the_end_of_text_token_does_not_count(llama):
    ended = tiny_tokenizer()
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    found = continuation_likelihoods(replace(llama, tokenizer=ended), ["ab"], ["cd"])
    assert found == continuation_likelihoods(llama, ["ab"], ["cd"])


def test_texts_longer_than_the_context_are_read_in_windows(make_lm):
    gpt2 = make_lm("gpt2")
    ((log_p, tokens),) = continuation_likelihoods(gpt2, ["a" * 200], ["bcd"])
    assert tokens == 3
    assert log_p < 0


@pytest.mark.parametrize("sign", ["-1", "+1"])
def test_the_best_of_several_has_most_evidence(llama, conditions, tmp_path, sign):
    condition = next(condition for condition in conditions if condition.name == f"best of 8 {sign}")
    run(llama, [condition], tmp_path / "e", PROMPTS[:2])
    texts = [row.text for row in generate(llama, PROMPTS[:2], config=GenerationConfig(24, 6, seed=derived_seed(0, 0)))]
    (evidence,) = steer_evidence(llama, {"s": condition.reader}, texts).tolist()
    for k, text in enumerate(texts_in(tmp_path / "e")):
        group = range(8 * k, 8 * k + 8)
        assert text == texts[max(group, key=lambda i: condition.strength * evidence[i])]


def test_finished_blocks_are_not_repeated(llama, conditions, tmp_path):
    whole = run(llama, conditions[:2], tmp_path / "e")
    scorer = Long()
    assert run(llama, conditions[:2], tmp_path / "e", scorer=scorer) == whole
    assert scorer.calls == 0
    sorted((tmp_path / "e" / "rows").iterdir())[1].unlink()
    assert run(llama, conditions[:2], tmp_path / "e", scorer=scorer) == whole
    assert scorer.calls == 1
    more = run(llama, conditions[:3], tmp_path / "e", scorer=scorer)
    assert more[:2] == whole
    assert scorer.calls == 3


def test_any_generated_text_is_kept_as_it_is(llama, tmp_path):
    odd = "one\u2028two\x85three\r\n\tfour"

    @dataclass(frozen=True)
    class Odd(Unsteered):
        def generate(self, lm, prompts, prefill, config):
            return [odd] * (len(prompts) * config.num_samples)

    for _ in range(2):
        (result,) = run(llama, [Odd()], tmp_path / "e", PROMPTS[:1])
        assert (result.continuations, result.score.mean) == (3, 1.0)
    assert texts_in(tmp_path / "e") == [odd] * 3


def test_ctrl_c_keeps_finished_blocks(llama, conditions, tmp_path):
    with pytest.raises(InterruptedWorkError, match="Run the same command again"):
        run(llama, conditions[:2], tmp_path / "e", PROMPTS[:2], Failing(KeyboardInterrupt()))
    assert len(list((tmp_path / "e" / "rows").iterdir())) == 1
    resumed = run(llama, conditions[:2], tmp_path / "e", PROMPTS[:2])
    assert resumed == run(llama, conditions[:2], tmp_path / "whole", PROMPTS[:2])


def test_a_failing_scorer_keeps_finished_blocks(llama, conditions, tmp_path):
    with pytest.raises(ScorerError, match=r"scorer long failed: RuntimeError: out of memory. It was to score s=-2"):
        run(llama, conditions[:2], tmp_path / "e", PROMPTS[:2], Failing(RuntimeError("out of memory")))
    assert len(list((tmp_path / "e" / "rows").iterdir())) == 1
    resumed = run(llama, conditions[:2], tmp_path / "e", PROMPTS[:2])
    assert resumed == run(llama, conditions[:2], tmp_path / "whole", PROMPTS[:2])


def test_another_evaluation_and_other_folders_are_refused(llama, make_lm, conditions, tmp_path):
    run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])
    with pytest.raises(DataError, match="another prompts, num samples;"):
        run(llama, conditions[:1], tmp_path / "e", PROMPTS[:3], protocol=replace(SMALL, num_samples=2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(DataError, match="holds no evaluation"):
        run(llama, conditions[:1], tmp_path / "full", PROMPTS[:2])
    with pytest.raises(DataError, match="nothing to evaluate"):
        run(llama, conditions[:1], tmp_path / "new", [])
    with pytest.raises(WrongBaseError):
        run(make_lm("qwen2"), conditions[1:2], tmp_path / "other", PROMPTS[:2])


@pytest.mark.parametrize("scores", [[0.5], [2.0] * 6, [float("nan")] * 6])
def test_invalid_scores_are_refused(llama, conditions, tmp_path, scores):
    odd = Long()
    odd.scores = lambda _: scores
    with pytest.raises(ScorerError, match="a number from 0 to 1"):
        run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2], odd)


def test_another_scorer_of_the_same_name_is_refused(llama, conditions, tmp_path):
    run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])
    refitted = Long()
    refitted.fingerprint = "2"
    with pytest.raises(DataError, match="another scorer fingerprint;"):
        run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2], refitted)


@pytest.mark.parametrize("name", ["s=+2", "words +4", "best of 8 +1"])
def test_blocks_of_another_steer_of_the_same_name_are_not_used(llama, tmp_path, monkeypatch, name):
    monkeypatch.setattr(condition_sets, "_LIST_SIZE", 5)
    results = []
    for seed in (0, 1):
        steers = {"s": random_steer(llama, seed=seed)}
        made = {one.name: one for one in conditions_of(llama, steers, {"s": [2.0]}, ["words", "best-of-n"])}
        results += run(llama, [made[name]], tmp_path / "e", PROMPTS[:2])
    assert results[0].perplexity != results[1].perplexity


@pytest.mark.parametrize("bad", [Protocol(num_samples=0), Protocol(top_p=2.0), Protocol(max_new_tokens=500)])
def test_values_out_of_range_are_refused_before_anything_is_kept(make_lm, tmp_path, bad):
    with pytest.raises(DataError):
        run(make_lm("gpt2"), [Unsteered()], tmp_path / "e", PROMPTS[:2], protocol=bad)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("cut", ["", "{", '{"prompt_index": 0}', "[1]"])
def test_damaged_files_are_named(llama, conditions, tmp_path, cut):
    run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])
    (file,) = (tmp_path / "e" / "rows").iterdir()
    whole = file.read_text(encoding="utf-8")
    file.write_text(cut or whole[:-20], encoding="utf-8")
    with pytest.raises(DataError, match=r"jsonl is damaged: .* run the same command again"):
        run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])
    (tmp_path / "e" / "run.json").write_text(cut, encoding="utf-8")
    with pytest.raises(DataError, match=r"run.json is damaged|another model"):
        run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])


def test_results_survive_json(llama, conditions, tmp_path):
    (result,) = run(llama, conditions[:1], tmp_path / "e", PROMPTS[:2])
    assert ConditionResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_report_shows_every_condition_and_escapes_html(llama, conditions, tmp_path):
    results = run(llama, conditions, tmp_path / "e", PROMPTS[:3])
    results[1] = replace(results[1], name="a$\\frac$", method="a$\\frac$")  # no mathematics, for matplotlib
    metadata = {"model": "m", "steer": "<b>s</b>", "scorer": "long", "perplexity model": "m"}
    page = report(results, metadata)
    assert page == report(results, metadata)
    for result in results:
        assert result.name.replace("&", "&amp;") in page
    assert "<b>s</b>" not in page
    assert "data:image/svg+xml;base64," in page


def test_the_likelihood_of_an_answer_is_that_of_its_own_tokens():
    lm = chat_lm()
    prompts, texts = [Chat.of_user("Well?"), Chat.of_user("a"), Chat.of_user("a")], ["good", " ok ", ""]
    for (value, tokens), prompt, text in zip(continuation_likelihoods(lm, prompts, texts), prompts, texts, strict=True):
        before, own = encode_chat(lm.codec, prompt), [token for each in lm.encode([text]) for token in each]
        log_p = lm.model(torch.tensor([[*before, *own]])).logits[0].log_softmax(-1)[len(before) - 1 : -1]
        assert tokens == len(own)
        assert value == pytest.approx(float(log_p.gather(1, torch.tensor(own).reshape(-1, 1)).sum()), abs=1e-3)
