"""A steer from descriptions that acts inside the model: what is read there, what each site gives, what is refused."""

from __future__ import annotations

import pytest
import torch

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError, SteerError
from lmsteer.fitting.contrast import fit as module
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.contrast.fit import fit_contrast
from lmsteer.fitting.contrast.imitation import imitation
from lmsteer.fitting.contrast.prompts import ContrastPrompts, contrast_prompts
from lmsteer.fitting.contrast.regression import ShiftRegression
from lmsteer.fitting.contrast.rows import ContrastRows, read_texts
from lmsteer.fitting.contrast.writing import ContrastText, write_texts
from lmsteer.model.inside import observed
from lmsteer.steer.files import load_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import find_site
from lmsteer.steer.steer import LowRank
from lmsteer.util.progress import no_progress
from tiny import FAMILIES, inner_steer

TWO_ENDS = ContrastText(0, ContrastPrompts([5, 6, 7], [8], [9, 10]), 1, [20, 21, 22])
ONE_END = ContrastText(0, ContrastPrompts([5, 6, 7], [9, 10], [9, 10]), 1, [20, 21, 22])


def joined(lm, text, **places):
    return ContrastRows.join(list(read_texts(lm, [text], no_progress, **places)))


def own_rows(lm, contrast, config, *, site, steer=None):
    """The rows of a fit at a site, under a steer."""
    prompts = contrast_prompts(lm, contrast, starter_subjects(), config.new_tokens)
    texts = [text for text in write_texts(lm, prompts, config) if text.subject % 4 != 3]
    return ContrastRows.join([*read_texts(lm, texts, no_progress, site=find_site(lm.model, site), steer=steer)])


def stream(lm, prompt, text, layer, mix=None):
    """The stream after a layer where the text's tokens are predicted, from the model's own list of hidden states."""
    ids = torch.tensor([[*prompt, *text]])
    if mix is None:
        states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    else:
        with lm.steered(mix):
            states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    return states[layer + 1][0, len(prompt) - 1 : -1]


@torch.inference_mode()
def test_the_stream_after_a_layer_is_read(llama):
    rows = joined(llama, TWO_ENDS, site=find_site(llama.model, "layers.0"))
    prompts = TWO_ENDS.prompts
    for name, prompt in {"plain": [llama.start_id], "positive": prompts.positive, "neutral": prompts.neutral}.items():
        expected = stream(llama, prompt, TWO_ENDS.ids, 0)
        # padding changes rounding only
        torch.testing.assert_close(getattr(rows, name), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("text", [TWO_ENDS, ONE_END], ids=["two ends", "one-sided"])
def test_after_a_steer_a_map_makes_what_is_missing_of_the_shift(llama, text):
    steer, place = inner_steer(llama, ["layers.0"]), find_site(llama.model, "layers.1")
    rows = joined(llama, text, site=place, steer=steer)
    final = llama.model.get_decoder().norm  # the last of the model's own hidden states is behind it
    strengths = (1.0,) if text is ONE_END else (1.0, -1.0)
    prompts = (text.prompts.neutral, [llama.start_id])
    for strength, states in zip(strengths, rows.under_steer, strict=True):
        for prompt, state in zip(prompts, states, strict=True):
            under = stream(llama, prompt, text.ids, 1, Mix({"s": steer}, {"s": strength}))
            torch.testing.assert_close(final(state), under, atol=1e-4, rtol=1e-4)  # padding changes rounding only
    for k, (x, shift) in enumerate(rows.pairs()):
        unsteered = (rows.neutral, rows.plain)[k]
        assert torch.equal(x, unsteered)
        other = unsteered if text is ONE_END else rows.under_steer[1][k]
        moved = (rows.under_steer[0][k] - other) / len(strengths)
        assert moved.norm() > 0.01
        torch.testing.assert_close(shift + moved, rows.shift, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_linear_layer_reads_its_own_input_and_shifts_the_stream_behind_its_layer(llama):
    down, layer = find_site(llama.model, "layers.1.mlp.down_proj"), find_site(llama.model, "layers.1")
    steer = inner_steer(llama, ["layers.0"])
    rows, expected = (joined(llama, TWO_ENDS, site=site, steer=steer) for site in (down, layer))
    ids = torch.tensor([[*TWO_ENDS.prompts.neutral, *TWO_ENDS.ids]])
    with observed([down]) as seen:
        llama.model(input_ids=ids)
    (x, shift), (alone, _) = rows.pairs()
    torch.testing.assert_close(x, seen[down.name].x[0, len(TWO_ENDS.prompts.neutral) - 1 : -1], atol=1e-5, rtol=1e-5)
    assert x.shape == alone.shape == (len(TWO_ENDS.ids), down.inputs)
    (_, same), _ = expected.pairs()
    assert torch.equal(shift, same)


def test_without_a_steer_before_it_a_map_makes_the_whole_shift(llama):
    rows = joined(llama, TWO_ENDS, site=find_site(llama.model, "layers.1"))
    (x, shift), (plain, same) = rows.pairs()
    assert torch.equal(x, rows.neutral)
    assert torch.equal(plain, rows.plain)
    assert torch.equal(shift, rows.shift)
    assert torch.equal(same, rows.shift)


def test_each_place_is_read_under_the_maps_before_it(llama, tmp_path, monkeypatch):
    read, real = [], module.read_texts

    def spy(lm, texts, progress, *, site=None, steer=None):
        read.append((site.name if site else "head", steer.sites if steer else ()))
        return real(lm, texts, progress, site=site, steer=steer)

    monkeypatch.setattr(module, "read_texts", spy)
    config = ContrastConfig(8, 6, sites=("head", "layers.*"))
    fit_contrast(llama, Contrast.of_descriptions("abc", "xyz"), name="abc", out=tmp_path / "s", config=config)
    both = ("layers.0", "layers.1")
    assert read == [("layers.0", ()), ("layers.1", both[:1]), ("head", both), ("head", both)]


@torch.inference_mode()
@pytest.mark.parametrize("text", [TWO_ENDS, ONE_END], ids=["two ends", "one-sided"])
def test_the_imitation_is_that_of_the_steered_model(llama, text):
    steer = inner_steer(llama, ["layers.0"], head=True)
    near = imitation(llama.head, joined(llama, text, steer=steer), LowRank(steer.factors["A"], steer.factors["B"]))

    def log_p(prompt, strength=0.0):
        ids = torch.tensor([[*prompt, *text.ids]])
        with llama.steered(Mix({"s": steer}, {"s": strength})):
            logits = llama.model(input_ids=ids).logits
        return torch.log_softmax(logits[0, len(prompt) - 1 : -1].float(), -1)

    prompts, found = text.prompts, []
    for sign, prompt in ((1.0, prompts.positive), (-1.0, prompts.negative))[: 1 if text is ONE_END else 2]:
        p = log_p(prompt)
        found.append([float((p.exp() * (p - log_p(prompts.neutral, s))).sum(-1).mean()) for s in (0.0, sign)])
    unsteered, steered = (sum(each) / len(each) for each in zip(*found, strict=True))
    # float32 logits
    assert near.unsteered == pytest.approx(unsteered, rel=1e-3, abs=1e-5)
    assert near.steered == pytest.approx(steered, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_steer_of_a_description_acts_inside(make_lm, family, tmp_path):
    lm = make_lm(family)
    contrast, config = Contrast.of_descriptions("abc", "xyz"), ContrastConfig(8, 6, sites=("layers.0", "head"))
    fitted = fit_contrast(lm, contrast, name="abc", out=tmp_path / "s", config=config)
    saved = load_steer(tmp_path / "s")
    assert saved.sites == ("layers.0",)
    assert saved.factors["A"].shape[1] == saved.ranks["head"] > 0
    assert set(saved.card.fit["sites"]) == {"layers.0", "head"}
    assert fitted.imitation.steered != fitted.imitation.unsteered


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_fits_a_lora_in_every_family(make_lm, family, tmp_path):
    lm = make_lm(family)
    config, contrast = ContrastConfig(8, 6, sites=("lora",)), Contrast.of_descriptions("abc", "xyz")
    fitted = fit_contrast(lm, contrast, name="abc", out=tmp_path / "s", config=config)
    saved = load_steer(tmp_path / "s")
    assert saved.sites
    assert all(find_site(lm.model, name).is_weight for name in saved.sites)
    assert fitted.imitation.steered != fitted.imitation.unsteered


@pytest.mark.parametrize(("family", "effect"), [("llama", 1.0), ("granite", 0.25)])
def test_the_map_of_a_linear_layer_makes_the_shift_that_the_stream_needs(
    make_lm, family, effect, tmp_path, monkeypatch
):
    """Where the stream takes up a quarter of what the layer writes, the map writes four times the shift."""
    lm, site = make_lm(family), "layers.1.mlp.down_proj"
    if family == "granite":
        for layer in lm.model.model.layers:
            monkeypatch.setattr(layer, "residual_multiplier", effect)
    config, contrast = ContrastConfig(8, 6, sites=(site,), rank=lm.hidden_size), Contrast.of_prompt("abc")
    steer = fit_contrast(lm, contrast, name="abc", out=tmp_path / "s", config=config).steer
    rows = own_rows(lm, contrast, config, site=site)
    regression = ShiftRegression.empty(48, lm.hidden_size)
    regression.add(rows, None)
    a, b = steer.inner[site]
    # float32 factors, and a measured effect
    torch.testing.assert_close(effect * (a @ b.T), regression.matrix().float(), rtol=1e-2, atol=1e-4)
    moved = own_rows(lm, contrast, config, site="layers.1", steer=steer)
    (x, _), _ = rows.pairs()
    made = moved.under_steer[0][0] - moved.neutral
    torch.testing.assert_close(made, effect * (x @ a @ b.T), rtol=1e-2, atol=1e-4)


def test_linear_layers_come_before_the_stream_behind_them(llama, tmp_path):
    config = ContrastConfig(8, 6, sites=("layers.1", "layers.1.self_attn.o_proj", "head", "layers.0.mlp.down_proj"))
    steer = fit_contrast(llama, Contrast.of_prompt("abc"), name="abc", out=tmp_path / "s", config=config).steer
    assert [*steer.card.fit["sites"]] == ["layers.0.mlp.down_proj", "layers.1.self_attn.o_proj", "layers.1", "head"]


def test_deep_is_the_stream_after_two_thirds_of_the_layers_and_the_head(llama, tmp_path):
    config = ContrastConfig(8, 6, sites=("deep",))
    steer = fit_contrast(llama, Contrast.of_prompt("abc"), name="abc", out=tmp_path / "s", config=config).steer
    assert set(steer.ranks) == {"layers.1", "head"}
    assert steer.rank > 0


def test_a_map_takes_away_some_of_the_shift_of_its_own_texts_after_it(llama, tmp_path):
    contrast = Contrast.of_prompt("abc")
    config = ContrastConfig(8, 6, sites=("layers.0",), rank=llama.hidden_size)
    steer = fit_contrast(llama, contrast, name="abc", out=tmp_path / "s", config=config).steer
    rows = own_rows(llama, contrast, config, site="layers.1", steer=steer)
    left = torch.cat([shift for _, shift in rows.pairs()])
    assert float(left.square().mean()) < 0.8 * float(rows.shift.square().mean())


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        (("layers.0.self_attn.q_proj",), DataError, "layers.0 itself, layers.0.self_attn.o_proj, layers.0.mlp.down"),
        (("layers.0.mlp.up_proj",), DataError, "does not add to the residual stream"),
        (("layers.9",), SteerError, "layers.0 to layers.1"),
        (("nothing",), DataError, "no site 'nothing': give head, deep, lora"),
        ((), DataError, "the sites are"),
        ("head", DataError, "the sites are"),
    ],
)
def test_sites_that_a_description_cannot_have_are_refused(llama, tmp_path, sites, error, message):
    contrast = Contrast.of_descriptions("abc", "xyz")

    def attempt():
        fit_contrast(llama, contrast, name="abc", out=tmp_path / "s", config=ContrastConfig(8, 6, sites=sites))

    with pytest.raises(error, match=message):
        attempt()
    assert not (tmp_path / "s").exists()


def test_a_steer_at_the_head_alone_has_no_sites(llama, tmp_path):
    contrast, config = Contrast.of_descriptions("abc", "xyz"), ContrastConfig(8, 6)
    steer = fit_contrast(llama, contrast, name="abc", out=tmp_path / "s", config=config).steer
    assert not steer.sites
    assert "sites" not in steer.card.fit
    assert set(steer.factors) == {"A", "B"}
