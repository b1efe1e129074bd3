"""A GGUF export in llama.cpp itself, on the real default model. `make test-llamacpp` runs this."""

import numpy as np
import pytest
import torch

from lmsteer import Mix, find_steer
from lmsteer.export.gguf import export_gguf
from lmsteer.model.sources.pypi import gguf_of

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp compiles for minutes: make test-llamacpp")

pytestmark = pytest.mark.model
TEXT = "My neighbour's new dog is a"
# Share of the logits' size: float32 by two programs, six millionths apart where this was measured
# (benchmarks/exports.py). Other processors sum in other orders.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def source():
    with gguf_of("smollm2") as path:
        yield path


def logits(file, ids):
    """Of every position, by llama.cpp."""
    model = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False, type_k=0, type_v=0)
    model.eval(ids)
    return np.array(model.scores[: len(ids)], copy=True)


@pytest.mark.parametrize("strength", [2.5, -3.0])
def test_logits_in_llama_cpp_are_the_steered_ones(smollm2, source, tmp_path, strength):
    mix = Mix({"sentiment": find_steer("sentiment")}, {"sentiment": strength})
    out = export_gguf(smollm2, mix, source, tmp_path / "steered.gguf", output="f32", others="f32")
    ids = smollm2.encode([TEXT])[0]
    with smollm2.steered(mix), torch.inference_mode():
        expected = smollm2.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    with torch.inference_mode():
        plain = smollm2.model(input_ids=torch.tensor([ids])).logits[0].numpy()
    found = logits(out, ids)
    gap = np.abs(found - expected).max() / np.abs(expected).max()
    assert gap < TOLERANCE
    assert np.abs(expected - plain).max() / np.abs(expected).max() > 1000 * TOLERANCE


def test_the_small_file_says_the_same(smollm2, source, tmp_path):
    """As it is sent around: four bits a weight, and a steered output in half precision."""
    mix = Mix({"sentiment": find_steer("sentiment")}, {"sentiment": 4.0})
    out = export_gguf(smollm2, mix, source, tmp_path / "steered.gguf")
    assert out.stat().st_size < 1.8 * source.stat().st_size
    ids = smollm2.encode([TEXT])[0]
    moved = logits(out, ids)[-1] - logits(source, ids)[-1]
    h = smollm2.hidden_states(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))[0, -1:]
    expected = smollm2.head.direction(mix.steer_hidden_states(h) - h)[0].numpy()
    # Of four bits a weight, and eight of each activation.
    assert np.corrcoef(moved, expected)[0, 1] > 0.99
