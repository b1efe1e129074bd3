"""What every method has to do: learn, be read back, refuse, be nothing at nothing, act by row, take padding."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from lmsteer.baselines.baseline import Baseline, BaselineCard
from lmsteer.baselines.full import FullTrainer
from lmsteer.baselines.methods import METHODS, fit_baseline, load_baseline, save_baseline
from lmsteer.baselines.training import TrainingBudget
from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import GistAdapter, GistCard, save_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import prompt_ids
from lmsteer.gist.generation import generate_from_gists
from tiny import FAMILIES, styled, tiny_lm

pytest.importorskip("peft", reason="the extra 'methods' is not installed")
TEXTS = styled(120)
PROMPTS = ["a", "the second, longer one", "bc", "four words of it"]
BUDGET = TrainingBudget(steps=30, batch=8)
IN_WORDS = {"prompting", "few-shot"}
ON_PASSES = sorted(set(METHODS) - IN_WORDS - {"prompt-tuning", "prefix-tuning", "gist"})


WORDS = ("Be bad. ", "Be good.")


@pytest.fixture(scope="module", autouse=True)
def shipped(tmp_path_factory):
    """A gist adapter of the tiny model, where one of the default model ships."""
    lm, folder = tiny_lm("llama"), tmp_path_factory.mktemp("gists")
    card = GistCard(lm.name, lm.fingerprint, lm.tokenizer_fingerprint, 2)
    random = torch.Generator().manual_seed(0)
    name = "model.layers.1.mlp.up_proj"
    down, up = (torch.randn(shape, generator=random) / 4 for shape in ((2, 32), (48, 2)))
    embeddings = torch.randn(2, 32, generator=random)
    save_adapter(GistAdapter(embeddings, {name: down}, {name: up}, card), folder / SHIPPED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmsteer.gist.adapter.SHIPPED_FOLDER", folder)
        yield


@lru_cache
def fitted(method: str) -> Baseline:
    return fit_baseline(tiny_lm("llama"), method, TEXTS, budget=BUDGET, instructions=WORDS)


def written(lm, rival, prompts, strength, tokens=6):
    starts = rival.starts(lm, prompts, strength, tokens)
    draws = GenerationConfig(max_new_tokens=tokens, sampling=SamplingConfig(temperature=0))
    return [row.text for row in continue_from(lm, prompts, starts, {}, [{}], draws)]


@pytest.mark.parametrize("method", METHODS)
def test_fitting_leaves_the_model_as_it_was(method):
    lm = tiny_lm("llama")
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    plain = lm.model(torch.arange(3, 9)[None]).logits
    rival = fit_baseline(lm, method, TEXTS, budget=BUDGET, instructions=WORDS)
    with torch.no_grad():
        written(lm, rival, PROMPTS, 1.0)
    parameters = dict(lm.model.named_parameters())
    assert parameters.keys() == before.keys()
    assert all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert torch.equal(lm.model(torch.arange(3, 9)[None]).logits, plain)


@pytest.mark.parametrize("method", METHODS)
def test_a_rerun_learns_the_same(llama, method):
    again = fit_baseline(tiny_lm("llama"), method, TEXTS, budget=BUDGET, instructions=WORDS)
    assert again.fingerprint == fitted(method).fingerprint


@pytest.mark.parametrize("method", sorted(set(METHODS) - IN_WORDS - {"steer", "activations", "gist"}))
def test_training_makes_texts_likelier_at_their_own_label(llama, method):
    short = fit_baseline(llama, method, TEXTS, budget=replace(BUDGET, steps=1))
    long = fit_baseline(llama, method, TEXTS, budget=replace(BUDGET, steps=60))
    assert long.card.fit["loss"] < short.card.fit["loss"] - (1e-4 if method == "full" else 1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_what_is_read(llama, tmp_path, method):
    rival = fitted(method)
    loaded = load_baseline(save_baseline(rival, tmp_path / "r"))
    assert (type(loaded), loaded.card, loaded.fingerprint) == (type(rival), rival.card, rival.fingerprint)
    assert written(llama, loaded, PROMPTS, 1.0) == written(llama, rival, PROMPTS, 1.0)
    assert loaded.parameters == sum(tensor.numel() for tensor in rival.tensors.values())


@pytest.mark.parametrize("method", sorted(set(METHODS) - IN_WORDS))
def test_another_base_is_refused(make_lm, method):
    with pytest.raises(WrongBaseError, match="was fitted on"):
        fitted(method).starts(make_lm("qwen2"), PROMPTS, 1.0, 4)


@pytest.mark.parametrize("method", METHODS)
def test_strength_0_is_the_base_where_it_is_defined(llama, method):
    rival = fitted(method)
    plain = fitted("few-shot")
    if rival.traits.zero_is_base:
        assert written(llama, rival, PROMPTS, 0.0) == written(llama, plain, PROMPTS, 0.0)
    if method in ON_PASSES:
        ids = torch.arange(3, 11)[None]
        with rival.at(llama, [0.0]):
            found = llama.model(ids).logits
        assert torch.equal(found, llama.model(ids).logits)


@pytest.mark.parametrize("method", ON_PASSES)
def test_rows_of_a_batch_have_strengths_of_their_own_where_that_is_defined(llama, method):
    rival = fitted(method)
    ids = torch.tensor(llama.encode([text.text[:6] for text in TEXTS[:2]]))
    with torch.no_grad():
        if not rival.traits.by_row:
            with pytest.raises(SteerError, match="one strength for all rows"), rival.at(llama, [1.0, -1.0]):
                pass
            return
        plain, alone = llama.model(ids).logits, []
        for strength in (0.0, -2.0):
            with rival.at(llama, [strength]):
                alone.append(llama.model(ids).logits)
        with rival.at(llama, [0.0, -2.0]):
            mixed = llama.model(ids).logits
    assert torch.equal(mixed[0], plain[0])
    torch.testing.assert_close(mixed[1], alone[1][1], rtol=1e-5, atol=1e-5)  # float32
    assert not torch.allclose(mixed[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(llama, method):
    rival = fitted(method)
    for strength in (-1.0, 1.0):
        together = written(llama, rival, PROMPTS, strength)
        assert together == [written(llama, rival, [prompt], strength)[0] for prompt in PROMPTS]


@pytest.mark.parametrize("method", sorted(set(METHODS) - IN_WORDS - {"activations", "gist"}))
def test_texts_are_likelier_at_their_own_end(llama, method):
    rival = fitted(method)
    strength = 3.0 if rival.traits.continuous else 1.0
    ids = llama.encode([text.text for text in TEXTS[:16]])
    own = [strength if text.label > 0 else -strength for text in TEXTS[:16]]
    found = rival.log_likelihoods(llama, ids, own).sum()
    assert found > rival.log_likelihoods(llama, ids, [-s for s in own]).sum()


@pytest.mark.parametrize("method", METHODS)
def test_likelihoods_do_not_depend_on_the_batch_and_are_those_of_what_follows(llama, method):
    """Of ragged texts, each alone; and of continuations, token by token, as ``starts`` begins them."""
    rival, texts = fitted(method), ["abcdef", "a b", "the longest text of these", "xyz"]
    strengths = [1.0, -1.0, -1.0, 1.0]
    ids = llama.encode(texts)
    together = rival.log_likelihoods(llama, ids, strengths)
    alone = [float(rival.log_likelihoods(llama, [one], [s])[0]) for one, s in zip(ids, strengths, strict=True)]
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-4, atol=1e-3)  # float32: padded
    expected = [_step_by_step(llama, rival, text, s) for text, s in zip(texts, strengths, strict=True)]
    torch.testing.assert_close(together, torch.tensor(expected), rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def _step_by_step(lm, rival, text, strength):
    """Read through ``generate``'s own loop: scores of the text's tokens, each after those before it."""
    ids, total = lm.encode([text])[0], 0.0
    for length in range(1, len(ids)):
        start = lm.tokenizer.decode(ids[:length])
        starts = rival.starts(lm, [start], strength, 1)
        with starts.installed():
            out = lm.model.generate(
                **starts.begin([0]), max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        total += float(torch.log_softmax(out.logits[0][0], -1)[ids[length]])
    return total


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "llama"])
@pytest.mark.parametrize("method", ["embeddings", "full"])
def test_changed_weights_are_what_a_model_with_those_weights_does(method, family):
    """Tied and untied heads, and embeddings that the model scales."""
    lm, other = tiny_lm(family), tiny_lm(family)
    rival = fit_baseline(lm, method, TEXTS, budget=BUDGET)
    ids = torch.tensor(lm.encode([text.text for text in TEXTS[:3]]))
    embedding = other.model.get_input_embeddings().weight
    own = next(name for name, parameter in other.model.named_parameters() if parameter is embedding)
    with torch.no_grad():
        with rival.at(lm, [-2.0]):
            found = lm.model(ids).logits
        for name, change in rival.tensors.items():
            other.model.get_parameter(own if name == "change" else name).sub_(2 * change)
        torch.testing.assert_close(found, other.model(ids).logits, rtol=1e-4, atol=1e-4)  # float32: other sums
        assert not torch.allclose(found, lm.model(ids).logits, atol=1e-4)


def test_a_trained_full_pass_is_the_pass_of_what_is_saved():
    """Tied weights move together while they are trained."""
    lm = tiny_lm("gpt2")
    trained = FullTrainer(lm)
    drawn = torch.Generator().manual_seed(0)
    for change in trained.trainable():
        change.data.copy_(torch.randn(change.shape, generator=drawn) / 50)
    ids, strengths = torch.tensor(lm.encode([text.text for text in TEXTS[:3]])), [1.0, -0.5, 1.0]
    card = BaselineCard("full", lm.name, lm.fingerprint, lm.tokenizer_fingerprint)
    with torch.no_grad():
        found = trained.logits(ids, torch.ones_like(ids), torch.tensor(strengths))
        for row, strength in enumerate(strengths):
            with trained.rival(card).at(lm, [strength]):
                torch.testing.assert_close(found[row], lm.model(ids).logits[row], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_soft_prompts_between_the_ends_are_interpolated(llama):
    rival = fitted("prompt-tuning")
    middle = (rival.tensors["minus"] + 3 * rival.tensors["plus"]) / 4
    expected = replace(rival, tensors={"minus": middle, "plus": middle}).kept(llama, 1.0)
    torch.testing.assert_close(rival.kept(llama, 0.5).keys[1], expected.keys[1], rtol=1e-4, atol=1e-5)


def test_padding_does_not_count_against_a_window(monkeypatch):
    monkeypatch.setitem(FAMILIES, "mistral", {**FAMILIES["mistral"], "sliding_window": 24})
    lm = tiny_lm("mistral")
    rival = fit_baseline(lm, "prefix-tuning", TEXTS, budget=BUDGET)
    prompts = ["ab", "a prompt of some more words"]
    together = written(lm, rival, prompts, 1.0)
    assert together == [written(lm, rival, [prompt], 1.0)[0] for prompt in prompts]


def test_soft_prompts_serve_models_that_cannot_be_told_positions():
    lm = tiny_lm("bloom")
    rival = fit_baseline(lm, "prompt-tuning", TEXTS, budget=BUDGET)
    together = written(lm, rival, PROMPTS, 1.0)
    assert together == [written(lm, rival, [prompt], 1.0)[0] for prompt in PROMPTS]
    ids = lm.encode(["abcdef", "a b"])
    assert torch.isfinite(rival.log_likelihoods(lm, ids, [1.0, -1.0])).all()


def test_strengths_that_a_method_has_not_are_refused(llama):
    for method in ("prompt-tuning", "prefix-tuning"):
        with pytest.raises(SteerError, match="its ends are -1 and 1"):
            fitted(method).starts(llama, PROMPTS, 1.5, 4)
    with pytest.raises(SteerError, match="there are -1, 0 and 1"):
        fitted("few-shot").starts(llama, PROMPTS, 0.5, 4)
    with pytest.raises(SteerError, match="acts through the prompt"):
        fitted("few-shot").at(llama, [1.0])


def test_what_cannot_be_fitted_is_refused(llama, tmp_path):
    with pytest.raises(DataError, match="an instruction for each end"):
        fit_baseline(llama, "prompting", TEXTS, instructions=("Be bad.", " "))
    assert fitted("prompting").card.fit == {"minus": "Be bad. ", "plus": "Be good. ", "tokens": 9}
    with pytest.raises(DataError, match="unknown method 'magic'"):
        fit_baseline(llama, "magic", TEXTS)
    with pytest.raises(DataError, match="two ends"):
        fit_baseline(llama, "lora", [text for text in TEXTS if text.label > 0])
    with pytest.raises(DataError, match="more than nothing"):
        TrainingBudget(steps=0)
    with pytest.raises(DataError, match="no rival of a steer"):
        load_baseline(tmp_path)
    lora, shots = fitted("lora"), fitted("few-shot")
    with pytest.raises(DataError, match="two factors of each"):
        replace(lora, tensors=dict([*lora.tensors.items()][1:]))
    with pytest.raises(DataError, match="words of both ends"):
        replace(shots, card=replace(shots.card, fit={}))
    with pytest.raises(DataError, match="not finite"):
        replace(lora, tensors={name: tensor * torch.nan for name, tensor in lora.tensors.items()})


def test_a_gist_s_end_is_the_gist_of_its_instruction(llama):
    rival = fitted("gist")
    (gist,) = compress(llama, rival.adapter, prompt_ids(llama, ["Be good."]))
    draws = GenerationConfig(max_new_tokens=6, sampling=SamplingConfig(temperature=0))
    texts = [row.text for row in generate_from_gists(llama, rival.adapter, [gist], PROMPTS, draws=draws)]
    assert written(llama, rival, PROMPTS, 1.0) == texts
    assert rival.context == 2


def test_gists_without_words_are_refused(llama):
    with pytest.raises(DataError, match="an instruction for each end"):
        fit_baseline(llama, "gist", TEXTS)
