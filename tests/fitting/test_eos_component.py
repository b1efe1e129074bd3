"""The end component recognises the label at the end of a text."""

from __future__ import annotations

import pytest

from lmsteer.data.labelled import LabelledText
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.eos_component import fit_eos_component
from lmsteer.fitting.scale import gains_at
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.encode_labelled import encode_labelled
from tiny import styled


@pytest.fixture(scope="module")
def statistics(llama) -> Statistics:
    texts = styled(240)
    return gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))


@pytest.fixture(scope="module")
def own(llama) -> FisherFactors:
    return fisher_factors(llama)


def test_the_reader_tells_labels_at_held_out_ends(llama, statistics, own):
    end = fit_eos_component(statistics, own, llama.head)
    rows = statistics.held_out[statistics.held_out.is_end]
    readings = rows.h.double() @ end.probe
    right = ((readings - readings.mean()).sign() == rows.label.sign()).double().mean()
    assert float(right) > 0.9


def test_ends_are_likelier_under_their_label(llama, statistics, own):
    end = fit_eos_component(statistics, own, llama.head)
    rows = statistics.held_out[statistics.held_out.is_end]
    assert float(gains_at(llama.head, rows, [(end.probe[:, None], end.direction[:, None])], [1.0]).mean()) > 0


def test_u_moves_the_end_of_text_by_one_nat_a_unit(llama, statistics, own):
    end = fit_eos_component(statistics, own, llama.head)
    # By definition, on the texts in the sums: the mean residual at ends along u is 1 (float64).
    assert float(end.direction @ statistics.sums["r_end"]) / statistics.counts.ends == pytest.approx(1)


def test_u_costs_less_than_the_plain_direction_does(llama, statistics, own):
    end = fit_eos_component(statistics, own, llama.head)
    plain = statistics.sums["r_end"] / statistics.counts.ends
    plain = plain / (plain @ plain)
    # Both move the end of text by one nat. u is the least by what the model's own text tells, but for its damping.
    assert float(end.direction @ own.f @ end.direction) < float(plain @ own.f @ plain)


def test_ends_that_tell_nothing_have_no_eos_component(llama, own):
    texts = [LabelledText(text.text, label) for text, label in zip(styled(240), [1.0, -1.0] * 120, strict=True)]
    by_chance = gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))
    assert fit_eos_component(by_chance, own, llama.head) is None


def test_ends_of_one_label_have_no_eos_component(llama, own):
    texts = [LabelledText(text.text, 0.5) for text in styled(80)]
    alike = gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))
    assert fit_eos_component(alike, own, llama.head) is None


def test_texts_without_ends_have_no_eos_component(llama, own):
    texts = styled(40)
    cut = gather_statistics(
        HiddenStates(llama, encode_labelled(llama, texts, max_tokens=6)), texts, Statistics.empty(llama)
    )
    assert fit_eos_component(cut, own, llama.head) is None
