"""Fisher factors on disk: with their eigenbases, which are computed once."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmsteer.model.fisher import FisherFactors


@pytest.fixture
def factors() -> FisherFactors:
    h, r = (torch.randn(200, 6, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1))
    return FisherFactors(h.T @ h / 200, r.T @ r / 200, h.mean(0), 0.7)


def test_factors_come_back_with_their_eigenbases(factors, tmp_path):
    factors.save(tmp_path / "fisher.safetensors")
    with mock.patch.object(torch.linalg, "eigh", side_effect=AssertionError("computed again")):
        again = FisherFactors.read(tmp_path / "fisher.safetensors")
        assert again is not None
        for (values, vectors), matrix in ((again.c_eigen, factors.c), (again.f_eigen, factors.f)):
            assert torch.allclose(vectors * values @ vectors.T, matrix, atol=1e-12)  # float64
    assert torch.equal(again.mean, factors.mean)
    assert again.c_unit == pytest.approx(0.7)


def test_a_file_without_eigenbases_has_them_computed(factors, tmp_path):
    file = tmp_path / "fisher.safetensors"
    factors.save(file)
    save_file({name: tensor for name, tensor in load_file(file).items() if "vectors" not in name}, file)
    again = FisherFactors.read(file)
    assert again is not None
    assert again.bases is None
    assert torch.equal(again.c_eigen.vectors, factors.c_eigen.vectors)


def test_factors_move_with_what_is_known_of_them(factors):
    moved = factors.with_eigenbases().to(torch.device("cpu"))
    assert moved.bases is not None
    assert torch.equal(moved.c_eigen.vectors, factors.c_eigen.vectors)
    assert factors.to(torch.device("cpu")).bases is None
