"""Metrics on held-out texts: they add up, and the calibration is that of what ``analyse`` finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.reading.analyse import analyse
from lmsteer.reading.encode_labelled import encode_labelled, encode_readable
from lmsteer.reading.held_out import HeldOutMetrics, fit_held_out_platt, measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.platt import fit_platt
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.splits import held_out_of
from tiny import random_steer, styled

TEXTS = styled(240)


@pytest.fixture(scope="module")
def rows(llama) -> LabelledRows:
    texts = styled(20)
    return LabelledRows.join(list(gather_rows(llama, texts, encode_labelled(llama, texts))))


def platt_of_analyse(lm, steer, texts):
    """The calibration on the evidence that ``analyse`` finds in texts."""
    found = analyse(lm, [text.text for text in texts], {"s": steer}, spans=0)
    evidence = torch.tensor([each.dimensions["s"].position.score for each in found], dtype=torch.float64)
    return fit_platt(evidence, torch.tensor([text.label > 0 for text in texts]))


def held_out_texts(lm):
    texts, ids = encode_readable(lm, TEXTS)
    return [texts[i] for i in held_out_of(texts, ids)]


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
def test_slope_and_offset_are_those_of_the_evidence_that_analyse_finds(llama, tmp_path, monkeypatch, method):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path / "cache"))
    done = fit(llama, TEXTS, name="letters", out=tmp_path / "s", config=FitConfig(method, rank=4))
    expected = platt_of_analyse(llama, done.steer, held_out_texts(llama))
    # float32 sums of other batches
    assert done.held_out.slope == pytest.approx(expected.slope, rel=1e-3)
    assert done.held_out.offset == pytest.approx(expected.offset, abs=1e-3)


def test_saved_and_merged_statistics_know_the_ids_of_their_held_out_texts(llama, tmp_path):
    def gathered(texts):
        return gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))

    gathered(TEXTS[::2]).save(tmp_path / "a")
    merged = load_statistics(tmp_path / "a")[0].merge(gathered(TEXTS[1::2])).held_out
    ids, labels = merged.token_ids()
    texts = sorted(held_out_texts(llama), key=lambda text: text.digest)
    assert ids == [*map(list, encode_labelled(llama, texts))]
    assert labels.tolist() == [text.label for text in texts]
    steer = random_steer(llama)
    expected, platt = platt_of_analyse(llama, steer, texts), fit_held_out_platt(llama, merged, steer)
    assert platt.slope == pytest.approx(expected.slope, rel=1e-3)
    # A text that is in both parts has its rows twice, but counts once.
    twice = LabelledRows.join([merged, merged])
    assert twice.token_ids()[0] == ids


def test_metrics_add_up(llama, rows):
    metrics = measure_held_out(llama, rows, random_steer(llama))
    positive = (rows.label > 0).float().mean().item()
    assert metrics.texts == 20
    both = positive * metrics.log_likelihood_gain_positive + (1 - positive) * metrics.log_likelihood_gain_negative
    assert metrics.log_likelihood_gain == pytest.approx(both, abs=1e-5)
    mirrored = measure_held_out(llama, replace(rows, label=-rows.label), random_steer(llama))
    assert mirrored.sign_accuracy == pytest.approx(1 - metrics.sign_accuracy)


def test_metrics_are_rounded_in_json_and_read_back(llama, rows):
    metrics = replace(
        measure_held_out(llama, rows, random_steer(llama)),
        slope=1.23456e-6,
        log_likelihood_gain=0.123456,
        offset=math.nan,
    )
    record = metrics.to_json()
    assert (record["slope"], record["log_likelihood_gain"], record["offset"]) == (1.235e-6, 0.1235, None)
    assert replace(metrics, slope=math.nan).to_json()["slope"] is None
    again = HeldOutMetrics.from_json(record)
    assert math.isnan(again.offset)
    assert again.to_json() == record


def test_the_eos_component_acts_on_ends_alone_and_a_domain_steer_is_no_gain(llama, rows):
    nothing = {name: torch.zeros(32, 1) for name in ("A", "B")}
    end = replace(random_steer(llama), factors={**nothing, "A_eos": torch.ones(32, 1), "B_eos": torch.ones(32, 1)})
    metrics = measure_held_out(llama, rows, end)
    assert metrics.log_likelihood_gain != 0
    assert metrics.log_likelihood_gain_without_eos == pytest.approx(0, abs=1e-6)  # float32, twice through the head
    assert metrics.sign_accuracy_without_eos == 0  # no evidence either way
    idle = replace(random_steer(llama), factors=nothing)
    with_domain = measure_held_out(llama, rows, idle, domain=random_steer(llama, seed=3))
    assert with_domain.log_likelihood_gain == pytest.approx(0, abs=1e-6)
