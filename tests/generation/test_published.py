"""Continuations come out in the published format."""

from __future__ import annotations

from lmsteer.generation.generate import Continuation
from lmsteer.generation.published import as_published


def test_continuations_are_grouped_by_prompt():
    rows = (("a", "x", 0), ("a", "y", 1), ("b", "z", 0), ("b", "u", 1), ("b", "v", 0), ("b", "w", 1))
    lines = as_published([Continuation(p, t, {"s": 1.0}, k, 3, -1.0) for p, t, k in rows], 2)
    assert [line["prompt"]["text"] for line in lines] == ["a", "b", "b"]
    assert lines[0]["generations"] == [
        {"text": "x", "strengths": {"s": 1.0}, "sample": 0},
        {"text": "y", "strengths": {"s": 1.0}, "sample": 1},
    ]
