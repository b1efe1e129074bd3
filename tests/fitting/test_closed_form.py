"""The closed form: it solves what it says, and finds a style that is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.fitting import scale
from lmsteer.fitting.activation_cache import HiddenStates
from lmsteer.fitting.closed_form import NaturalGradient, solve
from lmsteer.fitting.credit_assignment import credited_gradient
from lmsteer.fitting.statistics import Statistics, gather_statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.sweep import directions_of, sweep_texts
from tiny import random_steer, styled


@pytest.fixture(scope="module")
def statistics(llama) -> Statistics:
    texts = styled(240)
    return gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))


@pytest.fixture(scope="module")
def own(llama, tmp_path_factory) -> FisherFactors:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMSTEER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fisher_factors(llama)


@pytest.mark.parametrize("credited", [False, True])
def test_the_natural_gradient_solves_its_equation(statistics, own, credited):
    w = torch.randn(32, generator=torch.Generator().manual_seed(0)).double() if credited else None
    found, n, d = (
        NaturalGradient.of_statistics(statistics, own, w).matrix(3.0, 0.5),
        statistics.counts.tokens,
        statistics.sums["D"],
    )
    identity = torch.eye(32, dtype=torch.float64)
    c, f = own.c + 3 * own.c.diagonal().mean() * identity, own.f + 0.5 * own.f.diagonal().mean() * identity

    def step(gradient: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(c, gradient) @ torch.linalg.inv(f)

    gradients = [(statistics.sums["G"] - statistics.counts.label / n * d) / n]
    if w is not None:
        sample = LabelledRows.join(statistics.sample)
        gradients.append(credited_gradient([(sample.h, sample.r, sample.texts()[0])], w))
    # Equal weights in the Fisher metric: tr(gᵀ C⁻¹ g F⁻¹) = 1 each.
    total = torch.stack([g / (step(g) * g).sum().sqrt() for g in gradients]).sum(0)
    alpha = (step(total) * d).sum() / (step(d) * d).sum()
    torch.testing.assert_close(c @ found @ f, total - alpha * d, rtol=1e-8, atol=1e-8)  # float64
    assert abs(float((found * d).sum())) < 1e-9 * float(found.norm() * d.norm())  # the domain is left alone


def test_factors_are_the_best_of_their_rank(statistics, own):
    gradient = NaturalGradient.of_statistics(statistics, own)
    whole, w = gradient.truncated(3.0, 0.5, 32), gradient.matrix(3.0, 0.5)
    torch.testing.assert_close(whole.a @ whole.b.T, w, rtol=1e-9, atol=1e-9)  # float64
    a, b, share = gradient.truncated(3.0, 0.5, 4)
    assert a.shape == b.shape == (32, 4)
    # Eckart-Young in the damped Fisher metric: what the first four leave out is the rest of the spectrum.
    c, f = (m + damping * m.diagonal().mean() * torch.eye(32).double() for m, damping in ((own.c, 3.0), (own.f, 0.5)))

    def squared(matrix: torch.Tensor) -> float:
        return float((matrix.T @ c @ matrix @ f).trace())

    assert squared(w - a @ b.T) == pytest.approx((1 - share) * squared(w), rel=1e-9)
    assert gradient.truncated(3.0, 0.5).share >= 0.95 > gradient.truncated(3.0, 0.5, 1).share


def test_a_style_that_is_there_is_found(llama, statistics, own):
    solution = solve(statistics, own, llama.head)
    rows = statistics.held_out
    steer = replace(random_steer(llama), factors=solution.factors)
    of_texts = rows.h, rows.target, rows.is_end, directions_of(llama.head, [steer])
    log_p = sweep_texts(llama.head, *of_texts, [rows.label, 4 * rows.label])[0]
    one, four = (log_p - rows.log_p).mean(1).tolist()
    assert one > 0.1
    assert one > four  # strength 1 is the label, not a fraction of it


def test_the_steer_is_long_enough_to_do_something(llama, statistics, own, monkeypatch):
    monkeypatch.setattr(scale, "SHORTEST", 10.0)  # longer than this steer would be
    solution = solve(statistics, own, llama.head)
    a, b = (solution.factors[name].double() for name in ("A", "B"))
    assert own.inner((a, b), (a, b)) == pytest.approx(100, rel=1e-5)  # factors are float32


def test_credit_reaches_the_steer(llama, statistics, own):
    credited = solve(statistics, own, llama.head)
    without = solve(replace(statistics, sample=()), own, llama.head)
    assert credited.settings["credit_rows"] == sum(map(len, statistics.sample)) > 0
    assert not torch.allclose(
        credited.factors["A"] @ credited.factors["B"].T, without.factors["A"] @ without.factors["B"].T
    )
    assert torch.isfinite(without.factors["A"]).all()


def test_texts_without_ends_are_fitted_by_their_labels(llama, own):
    texts = styled(240)
    cut = gather_statistics(
        HiddenStates(llama, encode_labelled(llama, texts, max_tokens=8)), texts, Statistics.empty(llama)
    )
    solution = solve(cut, own, llama.head)
    assert set(solution.factors) == {"A", "B"}
    assert solution.settings["credit_rows"] == 0


def test_the_fit_is_deterministic(llama, statistics, own):
    one, two = solve(statistics, own, llama.head), solve(statistics, own, llama.head)
    assert all(torch.equal(one.factors[name], two.factors[name]) for name in ("A", "B", "A_eos", "B_eos"))


def test_a_rank_is_kept(llama, statistics, own):
    solution = solve(statistics, own, llama.head, rank=5)
    assert solution.factors["A"].shape == (32, 5)
    assert solution.settings["rank_share"] < 1


def test_too_few_texts_are_refused(llama, own):
    texts = [LabelledText("only", 1.0), LabelledText("two", -1.0)]
    few = gather_statistics(HiddenStates(llama, encode_labelled(llama, texts)), texts, Statistics.empty(llama))
    with pytest.raises(DataError, match="too few texts"):
        solve(few, own, llama.head)
