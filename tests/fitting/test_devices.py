"""A fit on a device: the CPU's steer, with sums that stay there and few small copies to the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.closed_form import preview_held_out, solve
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training
from lmsteer.fitting.inside.sums import InsideSums
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model import batching
from lmsteer.model.lm import LM
from lmsteer.reading import splits
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.steer.sites import find_site
from pretended import FIRST, HOST, Copies, counted_copies, execute_on, move, pretended_devices
from tiny import styled, tiny_model, tiny_tokenizer

TEXTS = styled(240)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))


@pytest.fixture
def both() -> Iterator[tuple[LM, LM]]:
    """A model on a device that is pretended, and the same one on the CPU."""
    there, here = (LM(tiny_model("llama"), tiny_tokenizer(), "tiny") for _ in range(2))
    fisher_factors(here)  # of the CPU, for both
    with pretended_devices():
        move(there.model, FIRST)
        execute_on(there.model, FIRST)
        yield there, here


def statistics_of(lm: LM) -> Statistics:
    return gather_statistics(HiddenStates(lm, encode_labelled(lm, TEXTS)), TEXTS, Statistics.empty(lm))


def test_sums_are_made_on_the_device_and_are_those_of_the_cpu(both):
    there, here = map(statistics_of, both)
    assert there.device == FIRST
    for name, total in here.sums.items():
        scale = float(total.abs().max())
        assert there.sums[name].device == FIRST
        # Blocks of float32 rows, and hidden states of batches of another size.
        torch.testing.assert_close(there.sums[name].cpu(), total, rtol=1e-4, atol=1e-5 * scale)
    assert (there.counts, there.fingerprint) == (here.counts, here.fingerprint)
    kept = [there.held_out, *there.sample]
    assert {rows.h.device for rows in kept} == {rows.r.device for rows in kept} == {HOST}
    torch.testing.assert_close(there.held_out.h, here.held_out.h, rtol=1e-4, atol=1e-5)


def test_the_solution_is_that_of_the_cpu(both):
    factors = fisher_factors(both[1])
    there, here = (solve(statistics_of(lm), factors, lm.head) for lm in both)
    assert there.settings["damping_1"] == here.settings["damping_1"]
    assert there.factors.keys() == here.factors.keys()
    matrices = [solution.factors["A"] @ solution.factors["B"].T for solution in (there, here)]
    assert all(factor.device == HOST for factor in there.factors.values())
    gap = (matrices[0] - matrices[1]).norm() / matrices[1].norm()
    assert gap < 2e-3  # the choice of scale is interpolated between float32 likelihoods


def test_hidden_states_leave_the_device_only_for_what_is_kept(both, monkeypatch):
    monkeypatch.setattr(splits, "HELD_OUT_ROWS", 64)
    monkeypatch.setattr(splits, "SAMPLE_ROWS", 64)
    monkeypatch.setattr(batching, "_ON_AN_ACCELERATOR", 512)
    lm, _ = both
    ids = encode_labelled(lm, TEXTS)
    states, statistics, counted = HiddenStates(lm, ids), Statistics.empty(lm), list[Copies]()
    for number in range(len(states.batches)):
        with counted_copies() as copies:
            statistics.add(states.rows(number, TEXTS))
        counted.append(copies)
    tokens, sent = sum(map(len, ids)), sum(copies.to_host for copies in counted)
    kept = len(statistics.held_out) + statistics.sample_rows
    assert kept < tokens / 20
    # The likelihood and the id of each token, 12 bytes, and h and r of the rows that are kept for some time.
    assert 12 * tokens < sent < 12 * tokens + 4 * kept * 8 * lm.hidden_size
    assert max(copies.number for copies in counted) <= 24


def test_what_is_reported_on_the_way_is_that_of_the_cpu(both):
    factors = fisher_factors(both[1])
    there, here = (preview_held_out(statistics_of(lm), factors.to(lm.head.device)) for lm in both)
    assert there == here
    assert "of their signs inside the text" in here


def test_factors_measured_on_the_device_are_those_of_the_cpu(both, tmp_path, monkeypatch):
    here = fisher_factors(both[1])
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "another"))
    there = fisher_factors(both[0])
    assert {there.c.device, there.f_eigen.vectors.device} == {HOST}
    for one, other in ((there.c, here.c), (there.f, here.f), (there.mean, here.mean)):
        assert (one - other).norm() < 1e-5 * other.norm()  # blocks of float32


def test_sums_inside_the_model_are_those_of_the_cpu(both):
    for name in ("layers.0", "layers.1.mlp.down_proj"):
        found = []
        for lm in both:
            sums = InsideSums([find_site(lm.model, name)])
            sums.add(lm, TEXTS[:20], encode_labelled(lm, TEXTS[:20]), None)
            found.append(sums)
        there, here = found
        assert there.tensors[f"{name}.G"].device == FIRST
        gap = (there.tensors[f"{name}.G"].cpu() - here.tensors[f"{name}.G"]).norm() / here.tensors[f"{name}.G"].norm()
        assert gap < 1e-4  # blocks of float32


def test_the_published_recipe_trains_on_the_device(both):
    losses = []
    for lm in both:
        rows = TextRows(HiddenStates(lm, encode_labelled(lm, TEXTS)), TEXTS).rows(range(8))
        assert rows.r.shape == (len(rows), 0)
        training = Training(lm.hidden_size, GradientConfig(steps=3, rank=4), lm.head.device)
        assert training.factors["A"].device == lm.head.device
        losses.append([training.train_on(lm.head, rows) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
