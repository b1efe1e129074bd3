"""Credit: the prediction ahead minus the prediction so far, within a text."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lmsteer.fitting.credit_assignment import credit, credited_gradient

AHEAD = 8


def naive(readings: list[float], texts: list[int]) -> list[float | None]:
    found: list[float | None] = []
    for i, reading in enumerate(readings):
        ahead = [readings[j] for j in range(i + 1, min(i + AHEAD + 1, len(readings))) if texts[j] == texts[i]]
        found.append(sum(ahead) / len(ahead) - reading if ahead else None)
    return found


@given(st.lists(st.integers(1, 12), min_size=0, max_size=5), st.integers(0, 99))
def test_credit_and_its_gradient_are_what_they_say(lengths, seed):
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    h = torch.randn(len(text), 3, generator=torch.Generator().manual_seed(seed)).double()
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    q, seen = credit(h, text, w)
    expected = naive((h @ w).tolist(), text.tolist())
    assert seen.tolist() == [value is not None for value in expected]
    # float64, another order of summing.
    torch.testing.assert_close(q[seen], torch.tensor([v for v in expected if v is not None], dtype=torch.float64))
    r = h.flip(1)
    mean = sum(v for v in expected if v is not None) / max(int(seen.sum()), 1)
    terms = [(v - mean) * torch.outer(h[i], r[i]) for i, v in enumerate(expected) if v is not None]
    gradient = sum(terms, torch.zeros(3, 3).double()) / max(len(terms), 1)
    torch.testing.assert_close(credited_gradient([(h, r, text)], w), gradient)
    cut = sum(lengths[: len(lengths) // 2])
    blocks = [(h[:cut], r[:cut], text[:cut]), (h[cut:], r[cut:], text[cut:])]
    torch.testing.assert_close(credited_gradient(blocks, w), gradient)


def test_texts_do_not_look_into_each_other():
    h, text, w = torch.tensor([[1.0], [2.0], [100.0], [101.0]]), torch.tensor([0, 0, 1, 1]), torch.ones(1)
    q, seen = credit(h, text, w)
    assert q[seen].tolist() == [1.0, 1.0]


def test_a_token_that_turns_the_reading_gets_the_credit():
    # Residual i marks token i; only the second raises the reading that follows.
    h = torch.tensor([[0.0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    one_text, reader = torch.zeros(4, dtype=torch.int64), torch.tensor([1.0, 0, 0, 0]).double()
    gradient = credited_gradient([(h, torch.eye(4), one_text)], reader)
    assert gradient[1].argmax() == 1


def test_no_credit_where_nothing_follows():
    gradient = credited_gradient([(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3))], torch.ones(2).double())
    assert torch.equal(gradient, torch.zeros(2, 2, dtype=torch.float64))
