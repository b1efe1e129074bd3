"""Quantised bases: a steer of the whole weights acts on them as kin, and a fit on them is nearly that on the whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import lmsteer
from benchmarks.quantised import config_of
from lmsteer.baselines.steer import fit_steer
from lmsteer.errors import WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.reading.verify import verify
from tiny import own_steer, styled, tiny_model, tiny_tokenizer

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")
FORMS = ("bitsandbytes-8", "bitsandbytes-4", "torchao-8")
TEXTS = styled(240)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMSTEER_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny Llama on disk. It is wide enough for blocks of 64 weights that share a scale."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(checkpoint) -> LM:
    return lmsteer.load(checkpoint, device_map="cpu")


@pytest.fixture(scope="module", params=FORMS)
def quantised(request, checkpoint) -> LM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages
        return lmsteer.load(checkpoint, device_map="cpu", quantization_config=config_of(request.param))


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_a_steer_of_the_whole_weights_acts_on_quantised_ones(quantised, whole):
    steer = own_steer(whole)
    assert quantised.fingerprint != whole.fingerprint
    assert verify(quantised, steer, strength=2.0).acts


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_a_fit_on_quantised_weights_is_nearly_that_on_whole_ones(quantised, whole):
    one, other = (fit_steer(lm, TEXTS).steer.matrix().flatten() for lm in (quantised, whole))
    # A tiny model of random weights; four bits move its hidden states by a tenth.
    assert float(torch.nn.functional.cosine_similarity(one, other, dim=0)) > 0.9


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_a_fit_inside_quantised_weights_has_gradients(quantised):
    steer = fit_steer(quantised, TEXTS, sites=("layers.0",)).steer
    assert steer.sites == ("layers.0",)
    assert verify(quantised, steer, strength=2.0).acts


def test_a_steer_of_another_base_is_refused_on_quantised_weights(quantised):
    other = tiny_model("llama", hidden_size=64, intermediate_size=128)
    other.get_output_embeddings().weight.data.normal_(0, 0.3)
    with pytest.raises(WrongBaseError):
        verify(quantised, own_steer(LM(other, tiny_tokenizer(), "other")), strength=2.0)
