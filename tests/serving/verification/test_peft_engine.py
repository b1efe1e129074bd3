"""A steer as a LoRA of PEFT is measured by the same checks as one on a server."""

from __future__ import annotations

import pytest

from lmsteer.errors import SteerError
from lmsteer.serving.verification import verify as module
from lmsteer.serving.verification.peft_engine import PeftEngine
from lmsteer.serving.verification.verify import verify_engine
from tiny import inner_steer, own_steer, tiny_lm

pytest.importorskip("peft", reason="the extra 'methods' is not installed")
SITES = ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj")


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Faults show within a few tokens."""
    monkeypatch.setattr(module, "_TOKENS", 4)


@pytest.mark.parametrize("make", [own_steer, lambda lm: inner_steer(lm, SITES, head=True)], ids=["head", "layers"])
def test_a_steer_passes(llama, make):
    steer = make(llama)
    with PeftEngine.loaded(tiny_lm("llama"), steer) as engine:
        found = verify_engine(engine, "style", llama, steer, -1.5)
    assert found.acts
    assert (found.program, found.address, len(found.checks)) == ("PEFT", "this process", 6)
    assert all(check.difference < 1e-3 for check in found.checks)


def test_another_steer_fails(llama):
    with PeftEngine.loaded(tiny_lm("llama"), own_steer(llama, seed=9)) as engine:
        found = verify_engine(engine, "style", llama, own_steer(llama), 1.0)
    assert [check.what[0] for check in found.checks if not check.passed] == ["3", "3"]


def test_the_model_is_given_back_as_it_was(llama):
    other = tiny_lm("llama")
    with PeftEngine.loaded(other, own_steer(llama)) as engine:
        engine.complete("on the", 1, strength=2.0)
    assert not [name for name, _ in other.model.named_modules() if "lora" in name]


def test_a_steer_of_the_stream_is_refused(llama):
    with pytest.raises(SteerError, match="no weight does"), PeftEngine.loaded(llama, inner_steer(llama, ["layers.0"])):
        pass
