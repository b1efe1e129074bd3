"""Fits of gist adapters: what they learn goes through the gist, and nothing of the model is touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError, InterruptedWorkError, ModelError, WrongBaseError
from lmsteer.gist.adapter import GistCard, load_adapter
from lmsteer.gist.examples import encode_examples, lay_out, prompt_ids
from lmsteer.gist.fit import fit_gist
from lmsteer.gist.forward import masked_states, output_likelihood, output_loss
from lmsteer.gist.masks import GistCondition
from lmsteer.gist.student import GistConfig, GistModel
from tiny import tiny_model


def copying(count: int, seed: int = 0) -> list[Instruction]:
    """The output is a letter that only the instruction tells."""
    drawn = random.Random(seed)
    return [Instruction(letter * 8, "", letter) for letter in drawn.choices("ab", k=count)]


SMALL = GistConfig(tokens=2, rank=4, steps=100, batch=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def fitted(llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("gist") / "a"
    before = {name: parameter.clone() for name, parameter in llama.model.named_parameters()}
    adapter = fit_gist(llama, copying(64), out, settings=SMALL, held_out=copying(16, seed=1), every=50)
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.model.named_parameters())
    return adapter, out


def test_a_fit_learns_what_goes_through_the_gist_alone(fitted):
    adapter, _ = fitted
    figures = adapter.card.held_out
    assert figures["gist"] < 0.4 * figures["negative"]
    assert [line["step"] for line in figures["curve"]] == [50, 100]
    assert figures["curve"][-1]["gist"] == pytest.approx(figures["gist"], abs=0.02)  # then rounded to bfloat16
    assert adapter.card.fit["condition"] == "gist"


def test_a_control_that_sees_no_prompt_learns_nothing_of_it(llama, tmp_path):
    settings = GistConfig(tokens=2, rank=4, steps=100, batch=8, learning_rate=1e-2, condition=GistCondition.NEGATIVE)
    adapter = fit_gist(llama, copying(64), tmp_path / "n", settings=settings, held_out=copying(16, seed=1))
    letter = torch.log(torch.tensor(2.0)) / 2  # of two tokens, the letter and the end
    assert adapter.card.held_out["negative"] > 0.8 * float(letter)
    # Nor has it learned to make anything of a prompt that it is shown.
    found = load_adapter(tmp_path / "n")
    examples = encode_examples(llama, copying(16, seed=1), 2)
    with torch.inference_mode(), found.installed(llama):
        assert output_loss(llama, found.ids(llama), examples, GistCondition.GIST) > 0.8 * float(letter)
    assert [*adapter.card.held_out] == ["negative", "curve"]


def test_a_control_that_sees_the_prompt_learns_to_read_it(llama, tmp_path):
    settings = GistConfig(tokens=2, rank=4, steps=100, batch=8, learning_rate=1e-2, condition=GistCondition.POSITIVE)
    adapter = fit_gist(llama, copying(64), tmp_path / "p", settings=settings, held_out=copying(16, seed=1))
    assert adapter.card.held_out["positive"] < 0.1
    assert adapter.card.fit["condition"] == "positive"


def test_what_is_saved_is_what_was_trained(llama, fitted):
    adapter, out = fitted
    loaded = load_adapter(out)
    assert loaded.fingerprint == adapter.fingerprint
    assert loaded.card.held_out["gist"] == adapter.card.held_out["gist"]
    examples = encode_examples(llama, copying(16, seed=1), 2)
    with torch.inference_mode(), loaded.installed(llama):
        loss = output_loss(llama, loaded.ids(llama), examples, GistCondition.GIST)
    assert loss == pytest.approx(adapter.card.held_out["gist"], abs=1e-4)  # float32: merged, not beside
    assert sorted(entry.name for entry in out.iterdir()) == ["gist.json", "gist.safetensors"]
    assert not out.with_name("a.partial").exists()


def test_full_fine_tuning_learns_it_too_and_leaves_the_model_as_it_was(llama, tmp_path):
    before = dict(llama.model.named_parameters())
    values = {name: parameter.clone() for name, parameter in before.items()}
    settings = GistConfig(tokens=2, full=True, steps=80, batch=8, learning_rate=1e-3)
    adapter = fit_gist(llama, copying(64), tmp_path / "f", settings=settings, held_out=copying(16, seed=1), every=80)
    assert all(parameter is before[name] for name, parameter in llama.model.named_parameters())
    assert all(torch.equal(parameter, values[name]) for name, parameter in before.items())
    assert not any(parameter.requires_grad for parameter in before.values())
    embeddings = {"model.embed_tokens.weight", "lm_head.weight"}
    assert adapter.changes.keys() == before.keys() - embeddings
    assert not adapter.down
    figures = adapter.card.held_out
    assert figures["gist"] < 0.4 * figures["negative"]
    assert figures["curve"][-1]["gist"] == pytest.approx(figures["gist"], abs=0.02)  # then rounded to bfloat16
    loaded = load_adapter(tmp_path / "f")
    assert loaded.fingerprint == adapter.fingerprint
    with loaded.installed(llama):
        changed = {name for name, parameter in before.items() if not torch.equal(parameter, values[name])}
    assert changed == adapter.changes.keys()
    assert all(torch.equal(parameter, values[name]) for name, parameter in before.items())
    other = replace(adapter, changes={"model.layers.7.weight": torch.zeros(2)})
    with pytest.raises(WrongBaseError, match="has not the layers"), other.installed(llama):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_installed_the_lora_is_what_it_was_beside_the_weights(make_lm, family):
    lm = make_lm(family)
    student = GistModel(lm, SMALL)
    for b in student.weights.up:
        torch.nn.init.normal_(b, std=0.1, generator=torch.Generator().manual_seed(1))
    for factor in student.weights.parameters():
        factor.data = factor.data.bfloat16().float()  # as adapters keep them
    examples = encode_examples(lm, copying(8), 2)
    with torch.no_grad(), student.installed():
        beside = output_likelihood(lm, student.gist, examples, GistCondition.GIST)
    adapter = student.adapter(GistCard(lm.name, lm.fingerprint, lm.tokenizer_fingerprint, 2))
    with torch.no_grad(), adapter.installed(lm):
        within = output_likelihood(lm, adapter.ids(lm), examples, GistCondition.GIST)
    torch.testing.assert_close(within, beside, rtol=1e-4, atol=1e-4)  # float32: one product for two


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_that_nobody_sees_need_not_be_there(make_lm, family):
    lm = make_lm(family)
    student = GistModel(lm, SMALL)
    examples = encode_examples(lm, [*copying(3), Instruction("a much longer instruction", "x", "ok")], 2)
    with torch.no_grad(), student.installed():
        without = output_likelihood(lm, student.gist, examples, GistCondition.NEGATIVE)
        layout, targets = lay_out(lm, examples, student.gist)
        h = masked_states(lm, layout, GistCondition.NEGATIVE)[:, :-1][targets[:, 1:]]
        expected = lm.head.log_likelihood(h, layout.ids[:, 1:][targets[:, 1:]])
    torch.testing.assert_close(without, expected, rtol=1e-4, atol=1e-4)  # float32: other shapes


def test_padding_changes_no_loss(llama):
    student = GistModel(llama, SMALL)
    examples = encode_examples(llama, [*copying(3), Instruction("a much longer instruction", "", "ok")], 2)
    with torch.no_grad(), student.installed():
        together = output_likelihood(llama, student.gist, examples, GistCondition.GIST)
        alone = torch.cat([output_likelihood(llama, student.gist, [each], GistCondition.GIST) for each in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)  # float32: other shapes


def test_random_numbers_of_the_caller_stay_what_they_were(llama, tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    fit_gist(llama, copying(8), tmp_path / "r", settings=GistConfig(rank=2, steps=2, batch=4))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


def test_two_processes_fit_one_adapter(llama, tmp_path):
    llama.model.save_pretrained(tmp_path / "tiny")
    llama.tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"instruction": each.instruction, "output": each.output} for each in copying(32)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fit = ["gist", "fit", "data.jsonl", "--out", "g", "--model", "tiny", "--held-out", "data.jsonl", "--every", "2"]
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmsteer"]
    command = [sys.executable, "-m", *launch, *fit, "--steps", "4", "--batch", "4", "--rank", "2"]
    environment = {**os.environ, "LMSTEER_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = load_adapter(tmp_path / "g").card.held_out
    assert [line["step"] for line in figures["curve"]] == [2, 4]
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith("g")) == ["g"]


def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(llama, tmp_path):
    settings = GistConfig(tokens=1, rank=2, steps=12, batch=4)
    whole = fit_gist(llama, copying(32), tmp_path / "whole", settings=settings, every=4)
    done, starts = [], []

    def progress(title, total, start):
        from contextlib import contextmanager

        starts.append(start)

        @contextmanager
        def opened():
            def step(advance, said):
                done.append(advance)
                if len(done) == 7:
                    signal.raise_signal(signal.SIGINT)

            yield step

        return opened()

    with pytest.raises(InterruptedWorkError, match="after 7 of 12 steps"):
        fit_gist(llama, copying(32), tmp_path / "part", settings=settings, every=4, progress=progress)
    assert not (tmp_path / "part").exists()
    for other in ({"rank": 3}, {"learning_rate": 0.1}, {"condition": GistCondition.NEGATIVE}, {"steps": 5}):
        changed = replace(settings, **other)
        with pytest.raises(DataError, match="keeps a fit of other settings"):
            fit_gist(llama, copying(32), tmp_path / "part", settings=changed, every=4, resume=True)
    with pytest.raises(DataError, match="keeps a fit of other examples"):
        fit_gist(llama, copying(32, seed=4), tmp_path / "part", settings=settings, every=4, resume=True)
    again = fit_gist(llama, copying(32), tmp_path / "part", settings=settings, every=4, resume=True, progress=progress)
    assert starts == [0, 7]
    assert len(done) == 12
    assert again.fingerprint == whole.fingerprint


def test_what_cannot_be_fitted_is_refused(llama, make_lm, tmp_path):
    for wrong in ({"tokens": 0}, {"rank": 0}, {"steps": 0}, {"batch": 0}):
        with pytest.raises(DataError, match="one or more"):
            GistConfig(**wrong)
    with pytest.raises(ModelError, match="keeps a state"):
        fit_gist(make_lm("mamba"), copying(4), tmp_path / "m")
    gpt2 = make_lm("gpt2")
    with pytest.raises(DataError, match="no instruction fits"):
        fit_gist(gpt2, [Instruction("a" * 200, "", "b")], tmp_path / "g")
    assert len(encode_examples(gpt2, [Instruction("a" * 200, "", "b"), *copying(1)], 1)) == 1
    for wrong in ({"learning_rate": -1.0}, {"learning_rate": float("nan")}, {"seed": -1}):
        with pytest.raises(DataError, match="cannot be"):
            GistConfig(**wrong)
    with pytest.raises(DataError, match="every 0 steps"):
        fit_gist(llama, copying(4), tmp_path / "e", every=0)
    with pytest.raises(DataError, match="no instruction fits"):
        fit_gist(gpt2, copying(4), tmp_path / "h", held_out=[Instruction("a" * 200, "", "b")])
    with pytest.raises(DataError, match="diverged"):
        fit_gist(llama, copying(4), tmp_path / "d", settings=GistConfig(steps=3, learning_rate=1e30))
    (tmp_path / "u.partial").mkdir()
    (tmp_path / "u.partial" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds no checkpoints of a fit"):
        fit_gist(llama, copying(4), tmp_path / "u", settings=GistConfig(steps=1))
    assert (tmp_path / "u.partial" / "thesis.txt").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(DataError, match="holds no gist adapter"):
        fit_gist(llama, copying(4), tmp_path / "full")
    assert prompt_ids(llama, ["do it"]) == llama.encode(["Instruction: do it\n"])


def test_a_fit_begun_anew_leaves_no_checkpoint_of_the_one_before(llama, tmp_path):
    settings = GistConfig(tokens=1, rank=2, steps=4, batch=4)
    old = tmp_path / "a.partial"
    old.mkdir()
    (old / "fit.json").write_text("{}")
    (old / "checkpoint-17").mkdir()
    whole = fit_gist(llama, copying(16), tmp_path / "b", settings=settings)
    assert fit_gist(llama, copying(16), tmp_path / "a", settings=settings).fingerprint == whole.fingerprint
    assert not old.exists()


def test_packed_weights_are_refused(make_lm):
    lm = replace(make_lm("llama"), model=tiny_model("llama"))
    layer = lm.model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(torch.zeros(512, 1, dtype=torch.uint8), requires_grad=False)
    for settings in (SMALL, replace(SMALL, full=True)):
        with pytest.raises(ModelError, match="unquantised"):
            GistModel(lm, settings)
    layer.weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ModelError, match="load the model unquantised"):
        GistModel(lm, SMALL)
    layer.weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.bfloat16), requires_grad=False)
    with pytest.raises(ModelError, match="needs weights in float32"):
        GistModel(lm, replace(SMALL, full=True))


def test_what_is_kept_at_once_is_no_part_of_what_is_learnt():
    assert GistConfig(at_once=8).to_json() == GistConfig().to_json()
    with pytest.raises(DataError, match="at_once"):
        GistConfig(at_once=0)


def test_a_batch_of_long_examples_is_taken_in_parts_with_the_same_gradients(llama):
    examples = encode_examples(llama, [Instruction(f"say {k}" * k, "", "yes" * k) for k in range(1, 7)], 1)
    found = []
    for tokens in (10_000, 40):
        student = GistModel(llama, GistConfig(1, at_once=tokens))
        with student.installed():
            loss = student(examples)["loss"]
            loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in student.parameters())])
    assert len(found[0]) > 3
    for whole, parts in zip(*found, strict=True):
        # float32: rows of other paddings, sums in another order
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    assert any(gradient.abs().sum() > 0 for gradient in found[0][1:])
