"""Steers under vLLM's second model runner, the real one, on a CPU: its kernels run in Triton's interpreter.

Models are tiny, since the interpreter takes a second and more for a step. `make test-vllm` runs these.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM

import lmsteer
from by_definition import defined_log_p
from lmsteer import Mix, load_steer, save_steer
from lmsteer.generation.config import Limits
from lmsteer.serving.vllm.asked import Asked
from lmsteer.steer.hook import SteerHandle
from lmsteer.steer.strength import Windowed
from lmsteer.steer.window import Window
from tiny import random_steer, tiny_tokenizer

HERE = Path(__file__).parent
# float32, logits of some units: products in another order.
TOLERANCE = 1e-4
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 259,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 32},
    "granite": {"logits_scaling": 4.0},
}
SETTINGS = [
    {},
    {"multiply": 2.0},
    {"multiply": -1.5, "add": 1.0},
    {"offset": 2.0},
    {"multiply": 1.0, "offset": -1.0},
]
PROMPT = [60, 17, 60, 17, 99, 60, 17]


def make_model(folder, family="llama", size=4.0, head=1.0, **shape):
    """A tiny model in a folder; the larger its weights and those of its head, the surer it is of its next token."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **{**SHAPE, **FAMILIES[family], **shape}, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= size if weight.dim() > 1 else 1
        model.lm_head.weight *= head
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[*FAMILIES])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models by family: the folder, the model, and steers of three forms in a folder."""
    found = {}

    def of(family):
        if family not in found:
            where = tmp_path_factory.mktemp(family)
            lm = lmsteer.load(str(make_model(where / "model", family)))
            for k, form in enumerate(("multiply", "add", "offset")):
                save_steer(replace(random_steer(lm, form, seed=k), card=lm.card(form)), where / "steers" / form)
            found[family] = where, lm
        return found[family]

    return of


def written(where, jobs, **options):
    """What vLLM writes for some jobs: a list of outputs each, and the number of accepted drafts."""
    environment = {
        **os.environ,
        "LMSTEER_STEERS": str(where / "steers"),
        "VLLM_PLUGINS": "lmsteer",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "TRITON_INTERPRET": "1",
        "TORCHDYNAMO_DISABLE": "1",  # its compiler asks for a real backend
        "PYTHONPATH": str(HERE / "interpreted_triton"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    command = [sys.executable, str(HERE / "offline_script.py"), str(where / "model"), json.dumps(options)]
    done = subprocess.run(command, input=json.dumps(jobs), env=environment, capture_output=True, text=True, timeout=900)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    outputs = [json.loads(rest) for word, rest in lines if word == "FOUND"]
    assert len(outputs) == len(jobs), (done.stdout + done.stderr)[-3000:]
    assert ["SECOND", "true"] in lines
    return outputs, next(json.loads(rest) for word, rest in lines if word == "ACCEPTED")


def jobs_of(settings, **params):
    return [
        {
            "ids": [5 + k, *PROMPT],
            "steers": ",".join(f"{name}={value}" for name, value in own.items()),
            "params": params,
        }
        for k, own in enumerate(settings)
    ]


def mix_of(where, strengths):
    return Mix({name: load_steer(where / "steers" / name) for name in strengths}, strengths)


def check(where, lm, outputs, jobs):
    """Each row is greedy under its own steers, and its log-likelihoods are lmsteer's own."""
    for (output,), job, strengths in zip(outputs, jobs, SETTINGS, strict=True):
        ids = output["ids"]
        with SteerHandle(lm.model, mix_of(where, strengths)), torch.inference_mode():
            logits = lm.model(input_ids=torch.tensor([[*job["ids"], *ids]])).logits[0, len(job["ids"]) - 1 : -1]
        lines = logits.log_softmax(-1)
        own = lines[range(len(ids)), ids]
        torch.testing.assert_close(torch.tensor(output["log_p"]), own, atol=TOLERANCE, rtol=0)
        assert (own >= lines.amax(-1) - TOLERANCE).all()


def test_a_mixed_batch_is_steered_row_by_row(made, family):
    """With vLLM's own options; of models with a scale or a soft cap of logits, too."""
    where, lm = made(family)
    jobs = jobs_of(SETTINGS, logprobs=1)
    check(where, lm, written(where, jobs)[0], jobs)


WINDOWS_AND_LIMITS = [
    ({"multiply": Windowed(2.0, Window.parse("3.."))}, {}),
    ({"offset": Windowed(2.0, Window.parse("rise..4")), "multiply": -1.5}, {}),
    ({"offset": 3.0}, {"plausible": 0.2}),
    ({"multiply": 3.0, "add": Windowed(-2.0, Window.parse("..4"))}, {"kl": 0.3}),
    ({"multiply": 1.0}, {}),
    ({}, {}),
]


def test_windows_and_limits_act_row_by_row(made, family):
    where, lm = made(family)
    jobs = jobs_of([strengths for strengths, _ in WINDOWS_AND_LIMITS], logprobs=1)
    jobs = [
        {**job, "ids": [*range(5, 6 + k), *job["ids"]], "limits": limits}  # prompts of several lengths
        for k, (job, (_, limits)) in enumerate(zip(jobs, WINDOWS_AND_LIMITS, strict=True))
    ]
    for (output,), job, (strengths, limits) in zip(written(where, jobs)[0], jobs, WINDOWS_AND_LIMITS, strict=True):
        steers = {name: load_steer(where / "steers" / name) for name in strengths}
        lines = defined_log_p(lm, job["ids"], output["ids"], Asked(steers, strengths, Limits(**limits)))
        own = lines[range(len(output["ids"])), output["ids"]]
        torch.testing.assert_close(torch.tensor(output["log_p"]), own, atol=TOLERANCE, rtol=0)
        assert (own >= lines.amax(-1) - TOLERANCE).all()


def test_drafts_are_verified_within_windows(made):
    where, lm = made("llama")
    strengths = {"multiply": Windowed(3.0, Window.parse("5..12"))}
    guess = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    jobs = jobs_of([strengths] * 3, logprobs=1, max_tokens=24)
    outputs, accepted = written(where, jobs, speculative_config=guess)
    assert accepted > 0
    steers = {name: load_steer(where / "steers" / name) for name in strengths}
    for (output,), job in zip(outputs, jobs, strict=True):
        lines = defined_log_p(lm, job["ids"], output["ids"], Asked(steers, strengths))
        assert (lines[range(24), output["ids"]] >= lines.amax(-1) - TOLERANCE).all()


def test_processes_with_a_part_of_the_head_each_steer_alike(made):
    where, lm = made("gemma2")
    jobs = jobs_of(SETTINGS, logprobs=1)
    check(where, lm, written(where, jobs, tensor_parallel_size=2)[0], jobs)


def test_speculative_decoding_writes_what_is_greedy_under_the_steers(made):
    where, lm = made("llama")
    jobs = jobs_of(SETTINGS, logprobs=1, max_tokens=24)
    guess = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    outputs, accepted = written(where, jobs, speculative_config=guess)
    check(where, lm, outputs, jobs)
    assert accepted > 0


def test_speculative_decoding_keeps_the_steered_distribution(tmp_path):
    """Drafts by the model's own first layer and head, which are not steered; frequencies of the first three tokens."""
    lm = lmsteer.load(str(make_model(tmp_path / "model", size=1.5, head=20.0)))
    draft = make_model(tmp_path / "draft", size=1.5, num_hidden_layers=1)
    smaller = AutoModelForCausalLM.from_pretrained(draft)
    smaller.load_state_dict(lm.model.state_dict(), strict=False)
    smaller.save_pretrained(draft)
    strengths, count = {"offset": 2.0, "multiply": 0.5}, 300
    for name in strengths:
        save_steer(replace(random_steer(lm, name, seed=3), card=lm.card(name)), tmp_path / "steers" / name)
    steers = ",".join(f"{name}={value}" for name, value in strengths.items())
    jobs = [
        {"ids": PROMPT, "steers": steers, "params": {"temperature": 1.0, "max_tokens": 3, "seed": seed}}
        for seed in range(count)
    ]
    guess = {"method": "draft_model", "model": str(draft), "num_speculative_tokens": 2}
    outputs, accepted = written(tmp_path, jobs, speculative_config=guess)
    assert accepted > count / 20
    texts = [output["ids"] for (output,) in outputs]
    steered, unsteered = (marginals(lm, mix_of(tmp_path, each)) for each in (strengths, {}))
    for place in range(3):
        found = Counter(ids[place] for ids in texts)
        assert fits(found, steered[place]), place
        assert not fits(found, unsteered[place]), place


def marginals(lm, mix):
    """The distribution (V,) of each of the first three tokens after the prompt, exactly."""

    def after(texts):
        with SteerHandle(lm.model, mix), torch.inference_mode():
            return lm.model(input_ids=torch.tensor(texts)).logits[:, -1].softmax(-1).double()

    vocabulary = lm.head.weight.shape[0]
    first = after([PROMPT])[0]
    second = after([[*PROMPT, token] for token in range(vocabulary)])
    third = sum(
        first[token] * second[token] @ after([[*PROMPT, token, other] for other in range(vocabulary)])
        for token in range(vocabulary)
    )
    return first, first @ second, third


def fits(found, expected, least=8):
    """Whether frequencies are those of a distribution: chi-square, with all rare tokens in one cell."""
    count = sum(found.values())
    common = [token for token, p in enumerate(expected.tolist()) if p * count >= least]
    observed = [found[token] for token in common]
    wanted = [float(expected[token]) * count for token in common]
    observed.append(count - sum(observed))
    wanted.append(count - sum(wanted))
    return chisquare(observed, wanted).pvalue > 1e-3
