"""verify: passes what is sound, fails what is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tokenizers import normalizers

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError, WrongBaseError
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.model.lm import LM
from lmsteer.reading import explicit
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.reading.held_out import measure_texts
from lmsteer.reading.verify import verify
from lmsteer.steer.hook import _Steered
from lmsteer.steer.sites import all_sites
from tiny import FAMILIES, inner_steer, random_steer, styled, tiny_model, tiny_tokenizer


def test_a_steer_that_does_nothing_fails(llama):
    steer = random_steer(llama)
    nothing = dataclasses.replace(steer, factors={"A": steer.factors["A"] * 0, "B": steer.factors["B"]})
    done = verify(llama, nothing)
    assert not done.acts
    assert not done.checks[0].passed


@pytest.mark.parametrize("broken", ["skipped", "off by a little", "spilling"])
def test_a_broken_hook_is_caught(llama, monkeypatch, broken):
    real = _Steered._steer_hidden_states

    def hook(self: _Steered, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (h,) = real(self, module, args)
        if broken == "skipped":
            return args
        if broken == "spilling":
            return (h + (h - args[0]).sum(0, keepdim=True) * 1e-3,)
        return (args[0] + (h - args[0]) * 1.01,)

    monkeypatch.setattr(_Steered, "_steer_hidden_states", hook)
    assert not verify(llama, random_steer(llama)).acts


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_steer_inside_the_model_passes(make_lm, family):
    lm = make_lm(family)
    called = [name for name in all_sites(lm.model) if "dt_proj" not in name]
    done = verify(lm, inner_steer(lm, called, head=True))
    assert done.acts, [check for check in done.checks if not check.passed]
    assert [check.what for check in done.checks if "each of its" in check.what]


def test_a_layer_whose_weight_the_model_takes_without_calling_it_is_caught(make_lm):
    done = verify(make_lm("mamba"), inner_steer(make_lm("mamba"), ["layers.0", "layers.0.mixer.dt_proj"]))
    assert next(check.what for check in done.checks if not check.passed).endswith("the least at layers.0.mixer.dt_proj")


@pytest.mark.parametrize("broken", ["skipped", "off by a little", "spilling"])
def test_a_broken_site_is_caught(llama, monkeypatch, broken):
    real = _Steered._steer_site

    def hook(self, site, module, args, output):
        y = real(self, site, module, args, output)
        if site.name != "layers.1.mlp.up_proj" or broken == "skipped":
            return output if site.name == "layers.1.mlp.up_proj" else y
        return y + (y - output).sum(0, keepdim=True) * 1e-2 if broken == "spilling" else output + 1.1 * (y - output)

    monkeypatch.setattr(_Steered, "_steer_site", hook)
    done = verify(llama, inner_steer(llama, ["layers.0", "layers.1.mlp.up_proj"], head=True))
    assert not done.acts
    assert "the least at layers.1.mlp.up_proj" in done.checks[1].what or broken != "skipped"


def test_held_out_texts_are_read_under_a_steer_inside_the_model(llama):
    texts = [LabelledText(text.text, text.label / (1 + k % 2)) for k, text in enumerate(styled(12))]
    inside, alone = inner_steer(llama, ["layers.0"]), random_steer(llama)
    both = dataclasses.replace(
        alone, factors={**alone.factors, **{k: 0 * f for k, f in inside.factors.items() if f.numel()}}
    )
    _, ids = encode_readable(llama, texts)
    found, expected = measure_texts(llama, texts, ids, both), measure_texts(llama, texts, ids, alone)
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True)
    assert measure_texts(llama, texts, ids, inside) != found


def test_held_out_texts_are_read(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))
    texts = styled(240)
    done = fit(llama, texts, name="letters", out=tmp_path / "s")
    verified = verify(llama, done.steer, texts)
    assert verified.acts
    assert verified.held_out is not None
    # The same rows in other batches.
    assert verified.held_out.log_likelihood_gain == pytest.approx(done.held_out.log_likelihood_gain, abs=1e-4)
    assert verified.held_out.texts == done.held_out.texts
    others = verify(llama, done.steer, styled(40, seed=9)).held_out
    assert others is not None
    assert others.texts == 40
    with pytest.raises(DataError, match="has a token to predict"):
        verify(llama, done.steer, [type(texts[0])("", 1.0)])


def test_another_base_is_refused(make_lm):
    with pytest.raises(WrongBaseError):
        verify(make_lm("qwen3"), random_steer(make_lm("llama")))


def test_a_tokenizer_that_finds_no_token_in_a_text_is_no_obstacle(llama):
    """The start token stands before every text, so that no row of the padded batch is empty."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("It", "")
    deaf = dataclasses.replace(llama, tokenizer=tokenizer)
    assert deaf.encode(["It"]) == [[]]
    ids, mask = explicit.batch_of(deaf, "left")
    assert ids[2].tolist()[-1] == deaf.start_id
    assert mask.sum(1).tolist()[2] == 1
    assert verify(deaf, random_steer(deaf)).acts


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
def test_texts_of_a_fit_are_cut_as_the_fit_cut_them(make_lm, tmp_path, method):
    lm = make_lm("gpt2")
    texts = [*styled(240), LabelledText("abc " * lm.max_length, 1.0)]
    settings = GradientConfig(steps=2, batch_size=4, rank=2)
    done = fit(lm, texts, name="s", out=tmp_path / "s", config=FitConfig(method, max_tokens=16, gradient=settings))
    verified = verify(lm, done.steer, texts)
    assert verified.held_out is not None
    assert verified.held_out.tokens == done.held_out.tokens


def test_a_context_of_few_tokens_is_kept_to(tmp_path, cache):
    lm = LM(tiny_model("gpt2", n_positions=16), tiny_tokenizer(), "small")
    fitted = fit(lm, styled(80), name="style", out=tmp_path / "style", config=FitConfig(max_tokens=16))
    assert verify(lm, fitted.steer).acts
