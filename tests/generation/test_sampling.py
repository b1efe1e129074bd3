"""The sampler draws from the tokens that temperature, top-k and top-p leave, and sorts no more than it must."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lmsteer.generation import sampling
from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.sampling import OVERFLOW, RowSettings, draw


class Sorted(TorchDispatchMode):
    """The widths of what is sorted, and of the parts that topk returns."""

    def __init__(self):
        super().__init__()
        self.widths = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.sort, torch.ops.aten.topk):
            self.widths.append(result[0].shape[-1])
        return result


def drawn_alike(scores, noise, sampling):
    """Tokens of rows that all draw in the same way."""
    return draw(scores, noise, RowSettings.of([sampling] * len(scores), scores.shape[-1], scores.device))


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=6), st.floats(0.05, 1), st.floats(0, 0.999))
def test_tokens_are_drawn_from_the_nucleus_alone(logits, top_p, noise):
    scores = torch.tensor([logits])
    p = scores.softmax(-1)[0]
    drawn = int(drawn_alike(scores, torch.tensor([noise]), SamplingConfig(top_p)))
    above = float(p[p > p[drawn]].sum())
    assert above < top_p + 1e-6  # rounding of float32 sums


@settings(deadline=None)
@given(
    st.permutations([-2.0, -1.1, 0.0, 0.4, 1.3, 2.5]),
    st.one_of(st.floats(0.05, 1), st.just(1.0)),
    st.integers(0, 8),
)
def test_top_k_then_top_p_is_what_transformers_draws_from(logits, top_p, top_k):
    scores = torch.tensor([logits])
    warped = TopKLogitsWarper(top_k)(None, scores.clone()) if 0 < top_k < len(logits) else scores
    p = (TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped).softmax(-1)[0]
    noise = (torch.arange(2000) + 0.5) / 2000
    drawn = drawn_alike(scores.repeat(2000, 1), noise, SamplingConfig(top_p, top_k))
    shares = torch.bincount(drawn, minlength=len(logits)) / 2000
    # One step of the noise is 1/2000.
    torch.testing.assert_close(shares, p, atol=2e-3, rtol=0)


def test_draws_follow_the_probabilities():
    noise = (torch.arange(1000) + 0.5) / 1000
    scores = torch.tensor([0.5, 0.3, 0.2]).log().repeat(1000, 1)
    drawn = drawn_alike(scores, noise, SamplingConfig(1.0))
    assert torch.bincount(drawn).tolist() == pytest.approx([500, 300, 200], abs=1)


def test_narrow_and_wide_nuclei_are_drawn_from_as_whole_rows_are(monkeypatch):
    random = torch.Generator().manual_seed(0)
    # From a few likely words in 3,000 to all of them alike.
    scores = torch.randn(60, 3000, generator=random) * torch.linspace(0, 8, 60)[:, None]
    drawn = []
    for widths in (sampling._NUCLEUS, ()):
        monkeypatch.setattr(sampling, "_NUCLEUS", widths)
        noise = torch.rand(60, generator=torch.Generator().manual_seed(1))
        drawn.append(drawn_alike(scores.clone(), noise, SamplingConfig(0.9)))
    within = scores.softmax(-1).topk(64).values.sum(-1)
    assert within.min() < 0.9 < within.max()
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("top_p", "top_k", "widest"), [(1.0, 0, 0), (1.0, 50, 64), (0.9, 0, 64)])
def test_no_more_is_sorted_than_the_setting_needs(top_p, top_k, widest):
    random = torch.Generator().manual_seed(0)
    scores, noise = 8 * torch.randn(40, 3000, generator=random), torch.rand(40, generator=random)
    with Sorted() as sorted_:
        drawn_alike(scores, noise, SamplingConfig(top_p, top_k))
    assert max(sorted_.widths, default=0) == widest


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_draw_tokens_that_are_possible(noise):
    scores = torch.full((3, 3000), -torch.inf)
    scores[:, 1000:2000] = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    drawn = drawn_alike(scores, torch.full((3,), noise), SamplingConfig(1.0))
    assert drawn.tolist() == [1999 if noise else 1000] * 3


SAMPLINGS = st.builds(
    SamplingConfig,
    st.sampled_from([0.3, 0.9, 0.999, 1.0]),
    st.sampled_from([0, 1, 5, 70, 5000]),
    st.sampled_from([0.0, 0.7, 1.0, 3.0]),
)


@settings(deadline=None)
@given(st.lists(SAMPLINGS, min_size=1, max_size=8), st.integers(0, 99))
def test_rows_of_unlike_settings_draw_what_each_draws_alone(samplings, seed):
    random = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(len(samplings), 1500, generator=random)
    noise = torch.rand(len(samplings), generator=random)
    before = scores.clone()
    together = draw(scores, noise, RowSettings.of(samplings, 1500, scores.device))
    alone = [drawn_alike(scores[i : i + 1], noise[i : i + 1], own) for i, own in enumerate(samplings)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert torch.equal(scores, before)


@pytest.mark.parametrize("sampling", [SamplingConfig(temperature=0), SamplingConfig(1.0), SamplingConfig(0.9, 3)])
def test_nothing_is_drawn_from_logits_that_are_not_finite(sampling):
    scores = torch.tensor([[torch.nan, 0.0], [torch.inf, 1.0], [-torch.inf, 1.0], [-torch.inf, -torch.inf]])
    assert drawn_alike(scores, torch.full((4,), 0.5), sampling).tolist() == [OVERFLOW, OVERFLOW, 1, OVERFLOW]
