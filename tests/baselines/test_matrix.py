"""What every method must do: learn, be read back, refuse other bases, act by row, ignore padding."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean

import pytest
import torch

from lmsteer.baselines.baseline import Baseline, ForwardBaseline, StoredBaseline
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.methods import METHODS, fit_baseline, load_baseline, save_baseline
from lmsteer.baselines.names import METHOD_NAMES
from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.gist import SHIPPED
from lmsteer.gist.adapter import GistAdapter, save_adapter
from lmsteer.gist.compress import compress
from lmsteer.gist.examples import prompt_ids
from lmsteer.gist.generation import generate_from_gists
from lmsteer.gist.lookup import GistCard
from lmsteer.model.kv_cache import inputs_of
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors
from lmsteer.util.provenance import provenance_of
from tiny import FAMILIES, styled, tiny_lm

pytest.importorskip("peft", reason="the extra 'methods' is not installed")
TEXTS = styled(60)
PROMPTS = ["a", "the second, longer one", "bc", "four words of it"]
BUDGET = TrainingBudget(steps=24, batch_size=8)
FEW_STEPS = TrainingBudget(steps=4, batch_size=8)
IDS = torch.arange(3, 9)[None]
IN_WORDS = {"prompting", "few-shot"}
FORWARD = sorted(name for name, method in METHODS.items() if issubclass(method.kind, ForwardBaseline))
TRAINED = sorted(set(METHODS) - IN_WORDS - {"steer", "deep-steer", "lora-steer", "activations", "gist"})
MORE = {"deep-steer": styled(240), "lora-steer": styled(240)}  # sites inside the model need more texts

WORDS = ("Be bad. ", "Be good.")


@pytest.fixture(scope="module", autouse=True)
def shipped(tmp_path_factory):
    """A gist adapter of the tiny model, where one of the default model ships."""
    lm, folder = tiny_lm("llama"), tmp_path_factory.mktemp("gists")
    card = GistCard(**provenance_of(lm), tokens=2)
    random = torch.Generator().manual_seed(0)
    name = "model.layers.1.mlp.up_proj"
    factors = LoRAFactors(*(torch.randn(shape, generator=random) / 4 for shape in ((2, 32), (48, 2))))
    embeddings = torch.randn(2, 32, generator=random)
    save_adapter(GistAdapter(embeddings, {name: factors}, card), folder / SHIPPED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmsteer.gist.lookup.SHIPPED_FOLDER", folder)
        yield


@dataclass(frozen=True)
class Fit:
    """A fit, shared by all tests: what was learnt, by which losses, and the model before and after it."""

    baseline: Baseline
    losses: list[float]
    before: dict[str, torch.Tensor]
    logits: torch.Tensor
    lm: LM


@lru_cache
def fit_of(method: str) -> Fit:
    lm, losses = tiny_lm("llama"), []
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    logits = lm.model(IDS).logits

    @contextmanager
    def progress(title, total, start):
        yield lambda advance, message: losses.append(float(message.rpartition(" ")[2])) if "loss" in message else None

    made = fit_baseline(lm, method, MORE.get(method, TEXTS), budget=BUDGET, instructions=WORDS, progress=progress)
    return Fit(made, losses, before, logits, lm)


def fitted(method: str) -> Baseline:
    return fit_of(method).baseline


def texts_of(lm, baseline, prompts, strength, tokens=6):
    prefill = baseline.prefill(lm, prompts, strength, tokens)
    config = GenerationConfig(max_new_tokens=tokens, sampling=SamplingConfig(temperature=0))
    return [row.text for row in continue_from(lm, prompts, prefill, {}, [{}], config)]


@pytest.mark.parametrize("method", METHODS)
def test_fitting_and_generating_leave_the_model_as_it_was(method):
    fit = fit_of(method)
    lm = fit.lm
    with torch.no_grad():
        texts_of(lm, fit.baseline, PROMPTS, 1.0)
    parameters = dict(lm.model.named_parameters())
    assert parameters.keys() == fit.before.keys()
    assert all(torch.equal(parameter, fit.before[name]) for name, parameter in parameters.items())
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert torch.equal(lm.model(IDS).logits, fit.logits)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_can_be_repeated(method):
    one, two = (
        fit_baseline(
            tiny_lm("llama"), method, MORE.get(method, TEXTS), budget=replace(BUDGET, steps=2), instructions=WORDS
        )
        for _ in range(2)
    )
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("method", TRAINED)
def test_training_makes_texts_likelier_at_their_own_label(method):
    losses = fit_of(method).losses
    assert len(losses) == BUDGET.steps
    # Full fine-tuning has a small learning rate.
    assert fmean(losses[-4:]) < fmean(losses[:4]) - (0 if method == "full" else 1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_baseline_is_read_back(llama, tmp_path, method):
    baseline = fitted(method)
    loaded = load_baseline(save_baseline(baseline, tmp_path / "r"))
    assert (type(loaded), loaded.method, loaded.fingerprint) == (type(baseline), method, baseline.fingerprint)
    if isinstance(baseline, StoredBaseline):
        assert loaded.card == baseline.card
        assert {file.name for file in (tmp_path / "r").iterdir()} == {"adapter.json", "adapter.safetensors"}
    assert texts_of(llama, loaded, PROMPTS, 1.0) == texts_of(llama, baseline, PROMPTS, 1.0)
    assert loaded.parameters == sum(tensor.numel() for tensor in baseline.stored.values())


@pytest.mark.parametrize("method", sorted(set(METHODS) - IN_WORDS))
def test_another_base_is_refused(make_lm, method):
    with pytest.raises(WrongBaseError, match="was fitted on"):
        fitted(method).prefill(make_lm("qwen2"), PROMPTS, 1.0, 4)


@pytest.mark.parametrize("method", METHODS)
def test_strength_0_is_the_base_where_it_is_defined(llama, method):
    baseline = fitted(method)
    plain = fitted("few-shot")
    if baseline.capabilities.zero_is_base:
        assert texts_of(llama, baseline, PROMPTS, 0.0) == texts_of(llama, plain, PROMPTS, 0.0)
    if method in FORWARD:
        ids = torch.arange(3, 11)[None]
        with baseline.at(llama, [0.0]):
            found = llama.model(ids).logits
        assert torch.equal(found, llama.model(ids).logits)


@pytest.mark.parametrize("method", FORWARD)
def test_rows_of_a_batch_have_strengths_of_their_own_where_that_is_defined(llama, method):
    baseline = fitted(method)
    ids = torch.tensor(llama.encode([text.text[:6] for text in TEXTS[:2]]))
    with torch.no_grad():
        if not baseline.capabilities.by_row:
            with pytest.raises(SteerError, match="one strength for all rows"), baseline.at(llama, [1.0, -1.0]):
                pass
            return
        plain, alone = llama.model(ids).logits, []
        for strength in (0.0, -2.0):
            with baseline.at(llama, [strength]):
                alone.append(llama.model(ids).logits)
        with baseline.at(llama, [0.0, -2.0]):
            mixed = llama.model(ids).logits
    assert torch.equal(mixed[0], plain[0])
    torch.testing.assert_close(mixed[1], alone[1][1], rtol=1e-5, atol=1e-5)  # float32
    assert not torch.allclose(mixed[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(llama, method):
    baseline = fitted(method)
    for strength in (-1.0, 1.0):
        together = texts_of(llama, baseline, PROMPTS, strength)
        assert together == [texts_of(llama, baseline, [prompt], strength)[0] for prompt in PROMPTS]


@pytest.mark.parametrize("method", sorted(set(METHODS) - IN_WORDS - {"activations", "gist"}))
def test_texts_are_likelier_at_their_own_end(llama, method):
    baseline = fitted(method)
    strength = 3.0 if baseline.capabilities.continuous else 1.0
    ids = llama.encode([text.text for text in TEXTS[:16]])
    own = [strength if text.label > 0 else -strength for text in TEXTS[:16]]
    found = baseline.log_likelihoods(llama, ids, own).sum()
    assert found > baseline.log_likelihoods(llama, ids, [-s for s in own]).sum()


@pytest.mark.parametrize("method", METHODS)
def test_likelihoods_do_not_depend_on_the_batch_and_are_those_of_what_follows(llama, method):
    """Of ragged texts, each alone; and of continuations, token by token, as ``prefill`` starts them."""
    baseline, texts = fitted(method), ["abcdef", "a b", "the longest", "xyz"]
    strengths = [1.0, -1.0, -1.0, 1.0]
    ids = llama.encode(texts)
    together = baseline.log_likelihoods(llama, ids, strengths)
    alone = [float(baseline.log_likelihoods(llama, [one], [s])[0]) for one, s in zip(ids, strengths, strict=True)]
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-4, atol=1e-3)  # float32: padded
    expected = [_step_by_step(llama, baseline, text, s) for text, s in zip(texts, strengths, strict=True)]
    torch.testing.assert_close(together, torch.tensor(expected), rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def _step_by_step(lm, baseline, text, strength):
    """Read through ``generate``'s own loop: scores of the text's tokens, each after those before it."""
    ids, total = lm.encode([text])[0], 0.0
    for length in range(1, len(ids)):
        start = lm.tokenizer.decode(ids[:length])
        prefill = baseline.prefill(lm, [start], strength, 1)
        with prefill.installed():
            out = lm.model.generate(
                **inputs_of(lm, prefill.starts),
                max_new_tokens=1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        total += float(torch.log_softmax(out.logits[0][0], -1)[ids[length]])
    return total


@torch.no_grad()
def test_soft_prompts_between_the_ends_are_interpolated(llama):
    baseline = fitted("prompt-tuning")
    middle = (baseline.tensors["minus"] + 3 * baseline.tensors["plus"]) / 4
    expected = replace(baseline, tensors={"minus": middle, "plus": middle}).kv(llama, 1.0)
    torch.testing.assert_close(baseline.kv(llama, 0.5).keys[1], expected.keys[1], rtol=1e-4, atol=1e-5)


def test_padding_does_not_count_against_a_window(monkeypatch):
    monkeypatch.setitem(FAMILIES, "mistral", {**FAMILIES["mistral"], "sliding_window": 24})
    lm = tiny_lm("mistral")
    baseline = fit_baseline(lm, "prefix-tuning", TEXTS, budget=FEW_STEPS)
    prompts = ["ab", "a prompt of some more words"]
    together = texts_of(lm, baseline, prompts, 1.0)
    assert together == [texts_of(lm, baseline, [prompt], 1.0)[0] for prompt in prompts]


def test_soft_prompts_serve_models_that_cannot_be_told_positions():
    lm = tiny_lm("bloom")
    baseline = fit_baseline(lm, "prompt-tuning", TEXTS, budget=FEW_STEPS)
    together = texts_of(lm, baseline, PROMPTS, 1.0)
    assert together == [texts_of(lm, baseline, [prompt], 1.0)[0] for prompt in PROMPTS]
    ids = lm.encode(["abcdef", "a b"])
    assert torch.isfinite(baseline.log_likelihoods(lm, ids, [1.0, -1.0])).all()


def test_other_strengths_are_refused(llama):
    for method in ("prompt-tuning", "prefix-tuning"):
        with pytest.raises(SteerError, match="its ends are -1 and 1"):
            fitted(method).prefill(llama, PROMPTS, 1.5, 4)
    with pytest.raises(SteerError, match="there are -1, 0 and 1"):
        fitted("few-shot").prefill(llama, PROMPTS, 0.5, 4)
    assert not any(hasattr(fitted(method), "at") for method in METHODS if method not in FORWARD)


def test_input_that_cannot_be_fitted_is_refused(llama, tmp_path):
    with pytest.raises(DataError, match="an instruction for each end"):
        fit_baseline(llama, "prompting", TEXTS, instructions=("Be bad.", " "))
    assert fitted("prompting").card.fit == {"minus": "Be bad. ", "plus": "Be good. ", "tokens": 9}
    with pytest.raises(DataError, match="unknown methods magic"):
        fit_baseline(llama, "magic", TEXTS)
    with pytest.raises(DataError, match="two ends"):
        fit_baseline(llama, "lora", [text for text in TEXTS if text.label > 0])
    with pytest.raises(DataError, match="must be 1 or more"):
        TrainingBudget(steps=0)
    with pytest.raises(DataError, match="no baseline in"):
        load_baseline(tmp_path)
    lora, shots = fitted("lora"), fitted("few-shot")
    with pytest.raises(DataError, match="two factors of each"):
        replace(lora, tensors=dict([*lora.tensors.items()][1:]))
    with pytest.raises(DataError, match="words of both ends"):
        replace(shots, card=replace(shots.card, fit={}))
    with pytest.raises(DataError, match="not finite"):
        replace(lora, tensors={name: tensor * torch.nan for name, tensor in lora.tensors.items()})


def test_a_gist_s_end_is_the_gist_of_its_instruction(llama):
    baseline = fitted("gist")
    (gist,) = compress(llama, baseline.adapter, prompt_ids(llama, ["Be good."]))
    config = GenerationConfig(max_new_tokens=6, sampling=SamplingConfig(temperature=0))
    texts = [row.text for row in generate_from_gists(llama, baseline.adapter, [gist], PROMPTS, config=config)]
    assert texts_of(llama, baseline, PROMPTS, 1.0) == texts
    assert baseline.context == 2


def test_gists_without_words_are_refused(llama):
    with pytest.raises(DataError, match="an instruction for each end"):
        fit_baseline(llama, "gist", TEXTS)


def test_the_names_of_methods_are_those_of_the_table():
    assert set(METHOD_NAMES) == set(METHODS)
