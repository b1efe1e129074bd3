"""Gists and baselines in requests: each row as if its own adapter alone were there, in every interface; or words."""

import gc
import re
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from lmsteer import load_steer
from lmsteer.baselines.baseline import BaselineCard
from lmsteer.baselines.full import FullTrainer
from lmsteer.baselines.gists import Gists
from lmsteer.baselines.lora import LoRATrainer
from lmsteer.baselines.methods import load_baseline, save_baseline
from lmsteer.baselines.soft_prompts import PrefixTuning
from lmsteer.errors import DataError, ModelError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.gist.adapter import save_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.gist import Gist
from lmsteer.serving.http.schema.requests import CompletionRequest
from lmsteer.serving.starts.named import NamedStarts
from lmsteer.serving.starts.saved import usable
from lmsteer.util.provenance import provenance_of
from tiny import random_adapter, tiny_lm

TOKENS = 8
GREEDY = GenerationConfig(max_new_tokens=TOKENS, sampling=SamplingConfig(temperature=0))


@pytest.fixture(scope="module")
def gists(llama, tmp_path_factory):
    """Two gists of one adapter, and one of another."""
    folder = tmp_path_factory.mktemp("gists")
    for seed, prompts in ((0, {"short": "Be brief.", "rude": "Be as rude as you can."}), (1, {"kind": "Be kind."})):
        adapter = random_adapter(llama, 2, seed=seed)
        save_adapter(adapter, folder / f"adapter-{seed}")
        made = compress(llama, adapter, llama.encode([*prompts.values()]))
        for name, gist in zip(prompts, made, strict=True):
            gist.save(folder / f"{name}.gist")
    return folder


@pytest.fixture(scope="module")
def baselines(llama, tmp_path_factory):
    """As a comparison leaves them: a LoRA, a prefix, and one that all rows would share."""
    folder = tmp_path_factory.mktemp("baselines")
    drawn = torch.Generator().manual_seed(0)

    def card(method):
        return BaselineCard(method=method, **provenance_of(llama))

    trainer = LoRATrainer(llama, "all", 2)
    for factor in trainer.trainable():
        factor.data.copy_(torch.randn(factor.shape, generator=drawn) / 4)
    save_baseline(trainer.baseline(card("lora")), folder / "lora" / "fitted")
    ends = {end: torch.randn(3, 2 * 2 * 2 * 8, generator=drawn) for end in ("minus", "plus")}
    save_baseline(PrefixTuning(card("prefix-tuning"), ends), folder / "prefix")
    save_baseline(FullTrainer(llama).baseline(card("full")), folder / "full" / "fitted")
    return folder


@pytest.fixture(scope="module")
def client(serving, llama, steers, gists, baselines):
    with serving(llama, steers, gists=[gists], baselines=[baselines], max_model_len=64) as client:
        yield client


def completed(client, **fields):
    body = {"prompt": "The cat", "max_tokens": TOKENS, "temperature": 0, **fields}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def after_gist(lm, gists, name, prompt, steers=None, strength=0.0):
    gist = Gist.load(gists / f"{name}.gist")
    adapters = [random_adapter(lm, 2, seed=seed) for seed in (0, 1)]
    (adapter,) = [each for each in adapters if each.fingerprint == gist.provenance.adapter_fingerprint]
    strengths = [dict.fromkeys(steers or {}, strength)]
    (row,) = generate_from_gists(lm, adapter, [gist], [prompt], steers or {}, strengths, GREEDY)
    return row.text


def test_rows_of_gists_baselines_and_steers_in_one_batch_are_what_each_is_alone(
    client, llama, steers, gists, baselines
):
    style = {"style": load_steer(steers / "style")}
    lora = load_baseline(baselines / "lora" / "fitted").prefill(llama, ["The cat"], 0.5, TOKENS)
    prefix = load_baseline(baselines / "prefix").prefill(llama, ["The cat"], -1.0, TOKENS)
    expected = [
        *((after_gist(llama, gists, name, "The cat"), {"gist": name}) for name in ("short", "rude", "kind")),
        (after_gist(llama, gists, "kind", "It", style, 3.0), {"gist": "kind", "prompt": "It", "steers": {"style": 3}}),
        *((row.text, {"baseline": "lora=0.5"}) for row in continue_from(llama, ["_"], lora, {}, [{}], GREEDY)),
        *((row.text, {"baseline": "prefix=-1"}) for row in continue_from(llama, ["_"], prefix, {}, [{}], GREEDY)),
        (completed(client), {}),
        (completed(client, steers={"style": -3}), {"steers": {"style": -3}}),
    ]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda each: completed(client, **each[1]), expected)]
    assert found == [text for text, _ in expected]
    assert len(set(found)) >= len(found) - 1  # two gists of one random adapter may say the same


def test_every_interface_has_them(client, llama, monkeypatch):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    monkeypatch.setattr(llama.tokenizer, "chat_template", template)
    messages = [{"role": "user", "content": "How?"}]
    common, named = {"temperature": 0, "gist": "rude"}, {"steers": {"style": 1}}
    chat = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 6, **common, **named})
    response = client.post("/v1/responses", json={"input": "How?", "max_output_tokens": 6, **common, **named})
    options = {"num_predict": 6, **common, **named}
    body = {"messages": messages, "stream": False, "options": options}
    ollama = client.post("/api/chat", json=body)
    text = chat.json()["choices"][0]["message"]["content"]
    assert text == completed(client, prompt="<user>How?<assistant>", max_tokens=6, **common, **named)
    assert text == response.json()["output"][0]["content"][0]["text"] == ollama.json()["message"]["content"]
    assert text != completed(client, prompt="<user>How?<assistant>", max_tokens=6, **named)


def test_they_are_listed(client, gists):
    listed = {each["name"]: each for each in client.get("/v1/gists").json()["data"]}
    assert list(listed) == ["kind", "rude", "short"]
    rude = Gist.load(gists / "rude.gist")
    assert listed["rude"] == {
        "name": "rude",
        "tokens": 2,
        "bytes": rude.bytes,
        "prompt_tokens": rude.provenance.prompt_tokens,
        "adapter": "adapter-0",
        "base": rude.provenance.base,
    }
    found = {each["name"]: (each["method"], each["refusal"]) for each in client.get("/v1/baselines").json()["data"]}
    assert found["lora"] == ("lora", None)
    assert found["prefix"] == ("prefix-tuning", None)
    assert "it changes all weights" in found["full"][1]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"gist": "nice"}, "gist", "unknown gist 'nice'; known gists: kind, rude, short."),
        ({"gist": "../rude"}, "gist", "unknown gist '../rude'"),
        ({"gist": "kind", "echo": True}, "echo", "echo works without a gist alone"),
        ({"gist": "kind", "baseline": "lora"}, "baseline", "use one of them"),
        ({"gist": "kind", "max_tokens": 61}, "max_tokens", "tokens and starts at position 2; with 61 new ones"),
        ({"gist": ["kind"]}, "gist", "must be a string"),
        ({"baseline": "full"}, "baseline", "full cannot be one row's alone: it changes all weights"),
        ({"baseline": "lora=much"}, "baseline", "must be a finite number, not 'much'"),
        ({"baseline": "lora=inf"}, "baseline", "must be a finite number, not 'inf'"),
        ({"baseline": "prefix=2"}, "baseline", "no strength 2: its ends are -1 and 1"),
        ({"baseline": "other"}, "baseline", "unknown baseline 'other'; known baselines: full, lora, prefix."),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(client, fields, param, message):
    answer = client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 4, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_the_rest_of_the_context_begins_after_the_gist(client):
    service = client.app.state.service
    bodies = [CompletionRequest(prompt="ab", max_tokens=-1, gist=gist) for gist in (None, "kind")]
    plain, after = (service.completion(body).requests[0] for body in bodies)
    assert plain.max_new_tokens - after.max_new_tokens == 2


def test_folders_with_nothing_to_serve_are_refused_when_the_server_starts(llama, make_lm, gists, baselines, tmp_path):
    with pytest.raises(DataError, match=r"--gists names .*nowhere, which is not a folder"):
        NamedStarts(llama, [tmp_path / "nowhere"])
    with pytest.raises(DataError, match=r"no gists in .*: save them as NAME\.gist"):
        NamedStarts(llama, [tmp_path])
    shutil.copy(gists / "kind.gist", tmp_path / "kind.gist")
    with pytest.raises(DataError, match=r"no gists to serve in .*kind\.gist .*: it was made by another gist adapter"):
        NamedStarts(llama, [tmp_path])
    with pytest.raises(DataError, match=r"\.gist cannot be served: this gist"):
        NamedStarts(make_lm("gpt_neox"), [gists])
    (tmp_path / "kind.gist").write_bytes(b"no gist")
    with pytest.raises(DataError, match="is no gist, or damaged"):
        NamedStarts(llama, [tmp_path])
    with pytest.raises(ModelError, match="writes one row at a time"):
        NamedStarts(make_lm("mamba"), [gists])
    only = tmp_path / "only"
    shutil.copytree(baselines / "full", only / "full")
    with pytest.raises(DataError, match=r"no baselines to serve in .*only\. full cannot be one row's alone"):
        NamedStarts(llama, baselines=[only])
    (only / "full" / "fitted" / "adapter.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"no baselines to serve in .* is damaged"):
        NamedStarts(llama, baselines=[only])


def test_what_is_broken_is_left_out_by_name_and_the_others_are_served(
    serving, llama, steers, gists, baselines, tmp_path
):
    broken = tmp_path / "gists"
    shutil.copytree(gists, broken)
    (broken / "adapter-1" / "gist.safetensors").write_bytes(b"")  # that of the gist "kind"
    (broken / "short.gist").write_bytes(b"no gist")
    others = tmp_path / "baselines"
    shutil.copytree(baselines, others)
    (others / "prefix" / "adapter.safetensors").write_bytes(b"")
    prefix = load_baseline(baselines / "prefix")
    card = replace(prefix.card, method="gist", fit={"adapter": "gone/adapter"})
    save_baseline(Gists(card, prefix.tensors), others / "told")
    with serving(llama, steers, gists=[broken], baselines=[others]) as client:
        names = client.app.state.service.starts.names()
        assert names == {"gists": ["rude"], "baselines": ["full", "lora"]}
        assert completed(client, gist="rude")
        refused = client.post("/v1/completions", json={"prompt": "ab", "baseline": "told"})
        reasons = client.app.state.service.starts.refusals
    assert refused.status_code == 400
    for reason, part in zip(
        reasons,
        (
            rf"the gist adapter in {broken}/adapter-1 is damaged",
            rf"{broken}/kind\.gist cannot be served: it was made by another gist adapter",
            rf"{broken}/short\.gist is no gist, or damaged",
            rf"the baseline in {others}/prefix cannot be served: .* is damaged",
            rf"the baseline in {others}/told cannot be served: no gist adapter in gone/adapter",
        ),
        strict=True,
    ):
        assert re.search(part, reason), reason


def test_a_gist_that_is_saved_later_can_be_named_at_once(llama, gists, tmp_path):
    shutil.copytree(gists, tmp_path / "own")
    starts = NamedStarts(llama, [tmp_path / "own"])
    shutil.copy(gists / "kind.gist", tmp_path / "own" / "later.gist")
    found = starts.find(gist="later")
    assert found.position == 2
    assert found.adapter is starts.find(gist="kind").adapter is not starts.find(gist="rude").adapter
    rude = Gist.load(gists / "rude.gist")
    other = replace(rude, provenance=replace(rude.provenance, adapter_fingerprint="another"))
    other.save(tmp_path / "own" / "other.gist")
    with pytest.raises(WrongBaseError, match="it was made by another gist adapter than those here"):
        starts.find(gist="other")
    assert [*usable(starts.gists.names(), starts.gists.find)[0]] == ["kind", "later", "rude", "short"]


def test_nothing_is_kept_of_baselines_that_cannot_be_served(llama, baselines, monkeypatch):
    loaded = {}

    def load(folder):
        baseline = load_baseline(folder)
        loaded[baseline.method] = weakref.ref(baseline)
        return baseline

    monkeypatch.setattr("lmsteer.serving.starts.baselines.load_baseline", load)
    starts = NamedStarts(llama, baselines=[baselines])
    gc.collect()
    assert loaded["full"]() is None
    assert loaded["prefix-tuning"]() is not None
    assert starts.baselines.find("full").refusal


def test_an_adapter_that_changes_all_weights_is_refused():
    lm = tiny_lm("llama")
    adapter = replace(random_adapter(lm), changes={"model.norm.weight": torch.ones(32)})
    with pytest.raises(ModelError, match="changes all weights"):
        adapter.for_rows(lm)
