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
from lmsteer.generation.sampling import NotFiniteError, RowSampler, draw


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


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=6), st.floats(0.05, 1), st.floats(0, 0.999))
def test_tokens_are_drawn_from_the_nucleus_alone(logits, top_p, noise):
    scores = torch.tensor([logits])
    p = scores.softmax(-1)[0]
    sampler = RowSampler(torch.tensor([[noise]]), SamplingConfig(top_p), [])
    only = sampler(torch.zeros(1, 0), scores)
    drawn = int(sampler.drawn)
    assert only.isfinite().sum() == 1
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
    drawn = draw(scores.repeat(2000, 1), noise, SamplingConfig(top_p, top_k))
    shares = torch.bincount(drawn, minlength=len(logits)) / 2000
    # One step of the noise is 1/2000.
    torch.testing.assert_close(shares, p, atol=2e-3, rtol=0)


def test_draws_follow_the_probabilities():
    noise = (torch.arange(1000) + 0.5) / 1000
    scores = torch.tensor([0.5, 0.3, 0.2]).log().repeat(1000, 1)
    drawn = draw(scores, noise, SamplingConfig(1.0))
    assert torch.bincount(drawn).tolist() == pytest.approx([500, 300, 200], abs=1)


def test_narrow_and_wide_nuclei_are_drawn_from_as_whole_rows_are(monkeypatch):
    random = torch.Generator().manual_seed(0)
    # From a few likely words in 3,000 to all of them alike.
    scores = torch.randn(60, 3000, generator=random) * torch.linspace(0, 8, 60)[:, None]
    drawn = []
    for widths in (sampling._NUCLEUS, ()):
        monkeypatch.setattr(sampling, "_NUCLEUS", widths)
        noise = torch.rand(60, generator=torch.Generator().manual_seed(1))
        drawn.append(draw(scores.clone(), noise, SamplingConfig(0.9)))
    within = scores.softmax(-1).topk(64).values.sum(-1)
    assert within.min() < 0.9 < within.max()
    assert torch.equal(*drawn)


@pytest.mark.parametrize(("top_p", "top_k", "widest"), [(1.0, 0, 0), (1.0, 50, 64), (0.9, 0, 64)])
def test_no_more_is_sorted_than_the_setting_needs(top_p, top_k, widest):
    random = torch.Generator().manual_seed(0)
    scores, noise = 8 * torch.randn(40, 3000, generator=random), torch.rand(40, generator=random)
    with Sorted() as sorted_:
        draw(scores, noise, SamplingConfig(top_p, top_k))
    assert max(sorted_.widths, default=0) == widest


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_draw_tokens_that_are_possible(noise):
    scores = torch.full((3, 3000), -torch.inf)
    scores[:, 1000:2000] = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    drawn = draw(scores, torch.full((3,), noise), SamplingConfig(1.0))
    assert drawn.tolist() == [1999 if noise else 1000] * 3


def test_rows_that_have_ended_count_no_more_tokens():
    sampler = RowSampler(torch.zeros(2, 3), SamplingConfig(temperature=0), stop_ids=[0])
    sampler(torch.zeros(2, 0), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert sampler.counted.tolist() == [True, True]
    sampler(torch.zeros(2, 1), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert sampler.counted.tolist() == [False, True]
    assert sampler.token_counts.tolist() == [1, 2]
    assert sampler.drop_ended().tolist() == [1]
    sampler(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert sampler.rows.tolist() == [1]
    assert sampler.token_counts.tolist() == [1, 3]


def test_only_rows_that_still_run_need_finite_logits():
    sampler = RowSampler(torch.zeros(3, 3), SamplingConfig(temperature=0), stop_ids=[0])
    sampler(torch.zeros(3, 0), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    sampler(torch.zeros(3, 1), torch.tensor([[torch.nan, 0.0], [-torch.inf, 1.0], [0.0, 1.0]]))
    sampler.drop_ended()
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(NotFiniteError) as refused:
            sampler(torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [wrong, 1.0]]))
        assert refused.value.row == 2
