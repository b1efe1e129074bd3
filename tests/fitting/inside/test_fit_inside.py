"""Fits inside the model: they separate styles, can be stopped and resumed, and refuse what they cannot fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.errors import DataError, InterruptedWorkError, StatisticsError, SteerError
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.inside import fit_inside as module
from lmsteer.fitting.inside import sums
from lmsteer.fitting.inside.fisher import OwnText, site_factors
from lmsteer.fitting.inside.fit_inside import site_groups
from lmsteer.fitting.inside.solve import UNIT, unit_map
from lmsteer.fitting.inside.sums import InsideSums
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.likelihood import steered_log_likelihoods
from lmsteer.reading.verify import verify
from lmsteer.steer.files import load_steer
from lmsteer.steer.sites import find_site, match_sites
from lmsteer.steer.steer import LowRank
from lmsteer.util.progress import no_progress
from tiny import inner_steer, styled

TEXTS = styled(300)


def fitted(lm, folder, *sites, **options):
    return fit(lm, TEXTS, name="letters", out=folder, config=FitConfig(sites=sites, **options))


@pytest.mark.parametrize("sites", [["layers.0"], ["head", "layers.*"], ["layers.*.mlp.down_proj", "layers.1"]])
def test_a_steer_inside_the_model_separates_styles_and_writes_them(llama, cache, tmp_path, sites):
    done = fitted(llama, tmp_path / "s", *sites)
    steer = load_steer(done.folder)
    assert steer.sites == tuple(site.name for site in match_sites(llama.model, [s for s in sites if s != "head"]))
    assert bool(steer.rank) == ("head" in sites)
    assert done.held_out.auc > 0.9
    verified = verify(llama, steer, TEXTS)
    assert verified.acts
    assert verified.held_out.auc == pytest.approx(done.held_out.auc, abs=1e-4)


def test_at_strength_one_the_model_diverges_by_the_unit(llama, cache, tmp_path):
    steer = fitted(llama, tmp_path / "s", "layers.0").steer
    own = OwnText(llama)
    found = [own.divergence(steer, s) for s in (-1.0, 1.0)]
    # The unit is measured where strengths are four times as large: to second order it is the same.
    assert sum(found) / 2 == pytest.approx(UNIT, rel=0.3)
    assert steer.card.fit["divergence"] == pytest.approx(UNIT, rel=0.11)
    assert own.divergence(steer, 0.0) == pytest.approx(0.0, abs=1e-7)


def test_a_stopped_fit_is_resumed_and_gives_the_same_steer(llama, cache, tmp_path, monkeypatch):
    real, calls = InsideSums.add, []
    monkeypatch.setattr(InsideSums, "add", lambda self, *args, **held: calls.append(1) or real(self, *args, **held))
    expected = fitted(llama, tmp_path / "whole", "layers.0").steer
    batches, calls = len(calls), []

    def stop(self, *args, **held):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *args, **held)

    monkeypatch.setattr(InsideSums, "add", stop)
    with pytest.raises(InterruptedWorkError, match="work so far"):
        fitted(llama, tmp_path / "s", "layers.0")
    assert (tmp_path / "s.partial.sites").exists()
    with pytest.raises(DataError, match="interrupted fit"):
        fitted(llama, tmp_path / "s", "layers.1", resume=True)
    again = []
    monkeypatch.setattr(InsideSums, "add", lambda self, *args, **held: again.append(1) or real(self, *args, **held))
    steer = fitted(llama, tmp_path / "s", "layers.0", resume=True).steer
    assert again
    assert len(again) == batches - 2  # two were in the sums
    for name, factor in expected.factors.items():
        torch.testing.assert_close(steer.factors[name], factor, rtol=1e-4, atol=1e-5)
    assert {folder.name for folder in tmp_path.iterdir()} >= {"s", "whole"}
    assert not [folder for folder in tmp_path.iterdir() if "partial" in folder.name]


def test_a_batch_that_memory_is_short_for_is_read_in_halves(llama, monkeypatch):
    texts, sites = TEXTS[:6], [find_site(llama.model, "layers.0")]
    ids = llama.encode([text.text for text in texts])
    whole, parts, real = InsideSums(sites), InsideSums(sites), sums.gradients_at
    whole.add(llama, texts, ids, None)
    whole.add(llama, texts, ids, None, held_out=True)

    def short(lm, some, *args):
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(lm, some, *args)

    monkeypatch.setattr(sums, "gradients_at", short)
    parts.add(llama, texts, ids, None)
    parts.add(llama, texts, ids, None, held_out=True)
    torch.testing.assert_close(parts.counts, whole.counts)
    torch.testing.assert_close(parts.tensors["layers.0.G"], whole.tensors["layers.0.G"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts.held_out(sites[0]), whole.held_out(sites[0]), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(
        sums, "gradients_at", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
    )
    with pytest.raises(DataError, match="out of memory"):
        parts.add(llama, texts[:1], ids[:1], None)
    torch.testing.assert_close(parts.counts, whole.counts)


def test_the_gain_is_the_slope_of_the_held_out_likelihood(llama):
    """Held-out texts at their labels' strength become likelier by the gain, to first order."""
    texts, site = TEXTS[:12], find_site(llama.model, "layers.0")
    ids, steer = llama.encode([text.text for text in texts]), inner_steer(llama, ["layers.0"])
    found = InsideSums([site])
    found.add(llama, texts, ids, None, held_out=True)
    factors = LowRank(*(factor.double() for factor in steer.inner["layers.0"]))
    eye = (torch.eye(site.inputs, dtype=torch.float64), torch.eye(site.outputs, dtype=torch.float64))
    metric = FisherFactors(*eye, torch.zeros(site.inputs, dtype=torch.float64))
    gain = unit_map(factors, metric, found.held_out(site), 1.0).gain * metric.inner(factors, factors) ** 0.5
    step = 2e-3
    read = steered_log_likelihoods(llama, ids, [steer], [-step, step])
    slopes = [float((own[0, 1] - own[0, 0]).double().sum()) / (2 * step) for own in read]
    tokens = sum(map(len, ids)) - len(ids)
    expected = sum(text.label * slope for text, slope in zip(texts, slopes, strict=True)) / tokens
    assert gain == pytest.approx(expected, rel=2e-2, abs=1e-3)  # float32, a difference over 4e-3


def test_sites_that_do_not_fit_in_memory_together_are_fitted_in_groups(llama, cache, tmp_path, monkeypatch):
    whole = fitted(llama, tmp_path / "whole", "layers.*").steer
    monkeypatch.setattr(module, "_GROUP_BYTES", 1)
    assert [len(group) for group in site_groups(match_sites(llama.model, ["layers.*"]))] == [1, 1]
    parts = fitted(llama, tmp_path / "parts", "layers.*").steer
    for name, factor in whole.factors.items():
        torch.testing.assert_close(parts.factors[name], factor, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "parts.partial.sites").exists()


def test_a_fit_that_is_stopped_in_its_second_group_keeps_the_first(llama, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GROUP_BYTES", 1)
    expected = fitted(llama, tmp_path / "whole", "layers.*").steer
    real = InsideSums.add

    def stop(self, *args, **held):
        if self.sites[0].name == "layers.1":
            raise KeyboardInterrupt
        real(self, *args, **held)

    monkeypatch.setattr(InsideSums, "add", stop)
    with pytest.raises(InterruptedWorkError, match="work so far"):
        fitted(llama, tmp_path / "s", "layers.*")
    read = []
    monkeypatch.setattr(
        InsideSums, "add", lambda self, *args, **held: read.append(self.sites[0].name) or real(self, *args, **held)
    )
    steer = fitted(llama, tmp_path / "s", "layers.*", resume=True).steer
    assert set(read) == {"layers.1"}
    for name, factor in expected.factors.items():
        torch.testing.assert_close(steer.factors[name], factor, rtol=1e-4, atol=1e-5)


def test_damaged_sums_are_told_apart(llama, tmp_path):
    sites = [find_site(llama.model, "layers.0")]
    file = tmp_path / "sums.safetensors"
    with pytest.raises(StatisticsError, match="missing"):
        InsideSums(sites).add_file(file)
    InsideSums(sites).save(file, 4, 9)
    assert InsideSums(sites).add_file(file) == (4, 9)
    with pytest.raises(StatisticsError, match="of other sites"):
        InsideSums([find_site(llama.model, "layers.1")]).add_file(file)
    file.write_bytes(b"nothing")
    with pytest.raises(StatisticsError, match="damaged"):
        InsideSums(sites).add_file(file)


def test_factors_are_measured_once(llama, cache, monkeypatch):
    sites = match_sites(llama.model, ["layers.0", "layers.0.mlp.down_proj"])
    found = site_factors(llama, sites, no_progress)
    monkeypatch.setattr("lmsteer.fitting.inside.fisher.gradients_at", None)
    again = site_factors(llama, sites[::-1], no_progress)
    for name, factors in found.items():
        torch.testing.assert_close(again[name].c, factors.c)
        assert factors.c.shape == (find_site(llama.model, name).inputs,) * 2
        assert again[name].c_unit == factors.c_unit > 0
        assert torch.linalg.eigvalsh(factors.f).min() > -1e-9


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (FitConfig(sites=[]), DataError, "the sites are"),
        (FitConfig(sites="deep"), DataError, "must be a list of names"),
        (FitConfig(sites=["head", ""]), DataError, "must be a list of names"),
        (FitConfig(sites=["layers.*.self_attn.k_proj"], rank=17), DataError, "has a rank of at most 16"),
        (FitConfig(sites=["layers.9"]), SteerError, r"no site of LlamaForCausalLM matches"),
        (FitConfig(sites=["middle"]), DataError, "no site 'middle': give head, deep, lora, or sites inside the model"),
        (FitConfig(sites=["layers.0"], method="gradient"), DataError, "the closed form without"),
        (FitConfig(sites=["layers.0"], statistics=["x"]), DataError, "without saved statistics"),
    ],
)
def test_what_cannot_be_fitted_is_refused(llama, cache, tmp_path, config, error, message):
    with pytest.raises(error, match=message):
        fit(llama, TEXTS, name="letters", out=tmp_path / "s", config=config)
    assert not (tmp_path / "s").exists()


def test_few_texts_are_refused(llama, cache, tmp_path):
    with pytest.raises(DataError, match="40 texts are too few for sites inside the model"):
        fit(llama, styled(40), name="letters", out=tmp_path / "s", config=FitConfig(sites=["layers.0"]))


def test_labels_that_do_not_show_are_refused(llama, cache, tmp_path, monkeypatch):
    real = module.site_map
    monkeypatch.setattr(module, "site_map", lambda *args: replace(real(*args), gain=-1.0))
    with pytest.raises(DataError, match=r"no map at layers.0 makes held-out texts likelier"):
        fitted(llama, tmp_path / "s", "layers.0")
