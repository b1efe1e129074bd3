"""Random gist adapters of tiny models, strong enough to change what they write, and one that is fitted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lmsteer.data.instructions import Instruction
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.config import GistConfig
from lmsteer.gist.fit import fit_gist
from lmsteer.model.lm import LM
from tiny import random_adapter

# Enough steps to learn what ``copying`` asks for.
_CONFIG = GistConfig(tokens=2, rank=4, steps=80, batch_size=8, learning_rate=1e-2, eval_steps=40)


def _copying(count: int, seed: int = 0) -> list[Instruction]:
    return [Instruction(letter * 8, "", letter) for letter in random.Random(seed).choices("ab", k=count)]


@pytest.fixture(scope="session")
def adapter_of() -> Callable[..., GistAdapter]:
    """Makes a random adapter of a model."""
    return random_adapter


@pytest.fixture(scope="session")
def copying() -> Callable[..., list[Instruction]]:
    """Makes instructions whose output is a letter that only the instruction names."""
    return _copying


@pytest.fixture(scope="session")
def learning() -> GistConfig:
    """A configuration that learns them."""
    return _CONFIG


class Fitted(NamedTuple):
    """An adapter of the tiny Llama, and its folder."""

    adapter: GistAdapter
    folder: Path


@pytest.fixture(scope="session")
def fitted(llama: LM, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The one fit that tests share, of which the model has to come back unchanged."""
    folder = tmp_path_factory.mktemp("gist") / "a"
    before = {name: parameter.clone() for name, parameter in llama.model.named_parameters()}
    adapter = fit_gist(llama, _copying(64), folder, config=_CONFIG, held_out=_copying(16, seed=1))
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.model.named_parameters())
    return Fitted(adapter, folder)
