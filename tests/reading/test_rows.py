"""Rows: whole batches, or their halves where memory is short."""

from __future__ import annotations

import pytest
import torch

from lmsteer.errors import DataError
from lmsteer.reading import hidden_rows as module
from lmsteer.reading.encode_labelled import encode_labelled
from lmsteer.reading.hidden_rows import compute_rows
from tiny import styled

FULL = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried too much"


def test_a_batch_that_memory_is_short_for_is_run_in_halves(llama, monkeypatch, capsys):
    ids = encode_labelled(llama, styled(7))
    whole, real, sizes = compute_rows(llama, ids), module._run, []

    def narrow(lm, some):
        sizes.append(len(some))
        if len(some) > 2:
            raise RuntimeError(FULL)
        return real(lm, some)

    monkeypatch.setattr(module, "_run", narrow)
    halves = compute_rows(llama, ids)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]
    assert capsys.readouterr().err.count("in halves") == 3
    assert torch.equal(halves.text, whole.text)
    assert torch.equal(halves.target, whole.target)
    torch.testing.assert_close(halves.r, whole.r, rtol=1e-4, atol=1e-5)  # float32, another batch


def test_other_errors_and_single_texts_are_not_tried_again(llama, monkeypatch):
    ids = encode_labelled(llama, styled(4))

    def broken(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(module, "_run", broken)
    message = "shapes do not fit"
    with pytest.raises(RuntimeError, match="shapes"):
        compute_rows(llama, ids)
    message = FULL
    with pytest.raises(DataError, match="--max-tokens"):
        compute_rows(llama, ids[:1])
