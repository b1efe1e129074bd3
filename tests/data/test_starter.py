"""The texts and prompts that come with the package."""

from __future__ import annotations

import pytest

from lmsteer.data.starter import starter_prompts, starter_requests, starter_texts
from lmsteer.errors import DataError


def test_other_dimensions_are_refused():
    with pytest.raises(DataError, match="sentiment, formality"):
        starter_texts("humour")


@pytest.mark.parametrize("dimension", ["sentiment", "formality"])
def test_starter_texts_are_many_varied_and_balanced(dimension):
    texts = starter_texts(dimension)
    for label in (1.0, -1.0):
        side = [t.text for t in texts if t.label == label]
        assert len(side) >= 300
        openings = {" ".join(text.split()[:3]).lower() for text in side}
        assert len(openings) > 0.9 * len(side)
    assert len({t.text.casefold() for t in texts}) == len(texts)
    assert all(5 <= len(t.text.split()) <= 32 for t in texts)


def test_starter_prompts_are_sixty_different_openings():
    prompts = starter_prompts()
    assert len({*prompts}) == len(prompts) == 60
    assert all(prompts)


def test_requests_are_forty_different_lines():
    requests = starter_requests()
    assert len(set(requests)) == len(requests) == 40
    assert all(request.strip() == request and request for request in requests)
