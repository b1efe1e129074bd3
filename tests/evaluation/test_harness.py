"""A model in lm-evaluation-harness: unsteered it is the harness's own ``hf``, steered it is the steered model."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lmsteer.errors import DataError, ModelError, SteerError, WrongBaseError
from lmsteer.evaluation import harness
from lmsteer.evaluation.harness import SteeredLM
from lmsteer.generation.config import SamplingConfig
from lmsteer.model.sources.resolve import DEFAULT_MODEL, resolve
from lmsteer.steer.files import save_steer
from tiny import inner_steer, random_steer

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " the"),
    ("", "A text without a context."),
    ("She opened the door and", " saw that the room was empty, but for a chair"),
    ("One", "\ntwo"),
]
TEXTS = ["Short.", "word and another word, " * 20]
ASKED = [
    ("The weather this morning", {"until": ["."], "max_gen_toks": 6}),
    ("Q: What is two and two?\nA:", {"until": ["\n", "Q:"], "max_gen_toks": 8, "do_sample": False}),
    ("Once upon a time", {"until": "a", "max_gen_toks": 6}),
    ("The weather in the evening, on the other hand, was", {"until": ["."], "max_gen_toks": 6}),
]


def requests(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=each if isinstance(each, tuple) else (each,), idx=i)
        for i, each in enumerate(arguments)
    ]


@pytest.fixture(scope="module")
def location(session_cache):
    return str(resolve(DEFAULT_MODEL).location)


@pytest.fixture(scope="module")
def hf(llama):
    """The harness's own model, with a context that cuts the last text into windows."""
    return HFLM(llama.model, tokenizer=llama.tokenizer, batch_size=4, max_length=64)


@pytest.fixture(scope="module")
def unsteered(llama):
    return made(llama, max_length=64)


def made(lm, **arguments):
    """A model of the harness from weights that are loaded already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "load", lambda *_, **__: lm)
        return SteeredLM(**arguments)


def assert_alike(found, expected):
    log_p, other = ([pair[0] for pair in pairs] for pairs in (found, expected))
    torch.testing.assert_close(log_p, other, rtol=1e-4, atol=2e-3)  # float32 sums of some hundred tokens
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.model
def test_figures_of_the_default_model_are_those_of_hf(smollm2, location):
    hf, unsteered = HFLM(location, device="cpu", batch_size=4, max_length=64), made(smollm2, max_length=64)
    pairs, asked = requests("loglikelihood", PAIRS), requests("generate_until", ASKED[:2])
    assert_alike(unsteered.loglikelihood(pairs, disable_tqdm=True), hf.loglikelihood(pairs, disable_tqdm=True))
    assert unsteered.generate_until(asked, disable_tqdm=True) == hf.generate_until(asked, disable_tqdm=True)


def test_figures_without_a_steer_are_those_of_hf(hf, unsteered):
    pairs, texts = requests("loglikelihood", PAIRS), requests("loglikelihood_rolling", TEXTS)
    assert_alike(unsteered.loglikelihood(pairs, disable_tqdm=True), hf.loglikelihood(pairs, disable_tqdm=True))
    rolled = [model.loglikelihood_rolling(texts, disable_tqdm=True) for model in (unsteered, hf)]
    torch.testing.assert_close(*rolled, rtol=1e-4, atol=2e-3)
    asked = requests("generate_until", ASKED)
    assert unsteered.generate_until(asked, disable_tqdm=True) == hf.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize("steers", ["one=-3+two@2", "deep=2"])
def test_steered_figures_are_those_of_the_steered_model(hf, steers, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steer(random_steer(llama, name="one"), "steers/one")
    save_steer(random_steer(llama, seed=1, name="two"), "steers/two")
    save_steer(inner_steer(llama, ["layers.0"], head=True), "steers/deep")
    model = made(llama, steers=steers, max_length=64)
    pairs, asked = requests("loglikelihood", PAIRS), requests("generate_until", ASKED)
    with model.lm.steered(model.mix):  # transformers' own forward pass, with hooks
        expected, texts = hf.loglikelihood(pairs, disable_tqdm=True), hf.generate_until(asked, disable_tqdm=True)
    assert_alike(model.loglikelihood(pairs, disable_tqdm=True), expected)
    assert model.generate_until(asked, disable_tqdm=True) == texts
    assert expected != hf.loglikelihood(pairs, disable_tqdm=True)  # it acts


def test_a_small_batch_writes_the_same(unsteered, llama):
    asked = requests("generate_until", ASKED)
    one = made(llama, batch_size=1, max_length=64).generate_until(asked, disable_tqdm=True)
    assert one == unsteered.generate_until(asked, disable_tqdm=True)


def test_what_a_task_leaves_open_is_as_the_models_settings_say(llama, monkeypatch, capsys):
    settings = llama.model.generation_config
    monkeypatch.setattr(settings, "top_p", 0.8)
    monkeypatch.setattr(settings, "top_k", 20)
    monkeypatch.setattr(settings, "repetition_penalty", 1.1)
    model = made(llama)
    assert "repetition_penalty=1.1, which do not act here" in " ".join(capsys.readouterr().err.split())
    config = model._generation({"until": ["\n"], "do_sample": True})
    assert config.sampling == SamplingConfig(0.8, 20, 1.0)
    assert model._generation({"until": [], "do_sample": True, "top_k": 5}).sampling == SamplingConfig(0.8, 5, 1.0)
    assert model._generation({"until": "x"}).sampling.temperature == 0
    assert config.stop == ("\n", llama.tokenizer.eos_token)


def test_the_harnesss_seed_governs_samples(unsteered):
    wanted = {"until": [], "max_gen_toks": 8, "do_sample": True}
    texts = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        texts.append(unsteered.generate_until(requests("generate_until", [("The weather", wanted)]), disable_tqdm=True))
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize(
    ("given", "rows"), [(None, 64), ("auto", 64), ("auto:4", 64), (256, 256), ("8", 8), ("none", None), (0, None)]
)
def test_the_batch_size_is_that_of_the_harness(llama, given, rows):
    if rows is None:
        with pytest.raises(DataError, match="the batch size must be a number from 1, or auto"):
            made(llama, batch_size=given)
    else:
        assert made(llama, batch_size=given).batch_size == rows
        assert made(llama, batch_size=given, max_batch_size=4).batch_size == 4


def test_a_start_token_is_added_where_it_is_asked_for(smollm2, location):
    asked = HFLM(location, device="cpu", add_bos_token=True)
    assert made(smollm2, add_bos_token=True).tok_encode("The cats") == asked.tok_encode("The cats")
    assert made(smollm2).tok_encode("The cats") == smollm2.encode(["The cats"])[0]


def test_what_does_not_fit_is_refused(llama, unsteered):
    with pytest.raises(DataError, match=f"max_length must be from 1 to the model's {llama.max_length}"):
        made(llama, max_length=llama.max_length + 1)
    for context, own in (([1], [2] * 65), ([1], []), ([], [2])):
        with pytest.raises(DataError, match=f"a continuation has {len(own)} tokens, after {len(context)}: .* to 64"):
            unsteered._loglikelihood_tokens([(None, context, own)], disable_tqdm=True)


def test_samples_are_drawn_as_a_task_asks(unsteered):
    wanted = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_p": 0.9}
    drawn = unsteered.generate_until(requests("generate_until", [("The weather", wanted)]), disable_tqdm=True)
    greedy = {**wanted, "do_sample": False}
    assert drawn != unsteered.generate_until(requests("generate_until", [("The weather", greedy)]), disable_tqdm=True)


@pytest.mark.parametrize(
    ("steers", "strengths"),
    [
        ("", {}),
        ("sentiment=4", {"sentiment": 4.0}),
        ("sentiment@-2+toxicity=1", {"sentiment": -2.0, "toxicity": 1.0}),
        ({"sentiment": 2, "toxicity": "1"}, {"sentiment": 2.0, "toxicity": 1.0}),
    ],
)
def test_steers_are_named_with_their_strengths(smollm2, steers, strengths):
    assert made(smollm2, steers=steers).get_model_info()["steers"] == strengths


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"until": ["."], "num_beams": 4}, "no beam search"),
        ({"until": ["."], "repetition_penalty": 1.2}, "does not generate with repetition_penalty"),
        ({"until": ["."], "max_gen_toks": 64}, "asks for 64 new tokens, and the model reads 64"),
        ({"until": ["."], "do_sample": True, "temperature": -1.0}, "the temperature must be 0 or more"),
    ],
)
def test_what_a_task_cannot_have_is_refused(unsteered, wanted, message):
    with pytest.raises(DataError, match=message):
        unsteered.generate_until(requests("generate_until", [("One", wanted)]), disable_tqdm=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steers": "nobody=3"}, SteerError, "unknown steer 'nobody'"),
        ({"steers": "sentiment"}, SteerError, "NAME=STRENGTH"),
        ({"steers": {"sentiment": "1,2"}}, SteerError, "one strength of each steer"),
        ({"steers": "sentiment=3@10.."}, SteerError, "strengths that act at all tokens"),
        ({"peft": "adapter", "parallelize": True}, DataError, "does not know parallelize, peft"),
        ({"think_end_token": 7}, DataError, "the text of a token"),
        ({"enable_thinking": True}, DataError, "enable_thinking needs it"),
        ({"pretrained": "no/such/model"}, ModelError, "no/such/model"),
    ],
)
def test_arguments_that_would_have_no_effect_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SteeredLM(**arguments)


def test_a_steer_of_another_model_is_refused(llama, smollm2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steer(random_steer(llama), "steers/other")
    with pytest.raises(WrongBaseError):
        made(smollm2, steers="other=1")


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(harness.Processes, "here", lambda: harness.Processes(0, 2))
    with pytest.raises(DataError, match="in one process"):
        SteeredLM()


def test_tasks_of_the_harness_run(tmp_path, monkeypatch):
    lines = [{"good": "The cats sleep.", "bad": "The cats sleeps."}, {"good": "He has eaten.", "bad": "He has ate."}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    task = {
        "task": "pairs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "pairs.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[good, bad]}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(task), "utf-8")
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # it lists all packages, which takes seconds
    found = evaluator.simple_evaluate(
        model=SteeredLM(steers="sentiment=3"),
        tasks=["pairs"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found["results"]["pairs"]["acc,none"] == 1.0
