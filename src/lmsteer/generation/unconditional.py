"""Text that the unsteered model samples after its start token alone, and the Fisher factors measured on it."""

from __future__ import annotations

import contextlib
import math

import torch
from safetensors import SafetensorError
from torch import Tensor

from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.decoding import decode
from lmsteer.generation.sampling import HiddenStateRecorder, RowSampler
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.steer.hook import unsteered
from lmsteer.util.disk_cache import cache_dir

# 192 texts of 32 tokens give some ten rows for each of the 576 dimensions of the default model: half a minute on two
# cores. Wider models get as many rows a dimension, or C and F would be singular and damping would invert noise.
FISHER_TEXTS, FISHER_TOKENS = 192, 32
_TEXTS_PER_DIMENSION = 1 / 3
FISHER_SEED = 0
# Raised when any of this changes, so that an older cache file is not read.
_FORMAT = 2


@torch.inference_mode()
def sample_unconditional(lm: LM, texts: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sample texts from the unsteered model, starting from its start token alone.

    Args:
        lm: the model.
        texts: the number of texts, all in one batch.
        tokens: the length of each text in tokens; of a text that ends earlier, the tokens up to its end are used.
        seed: the seed of the random numbers.

    Returns:
        The hidden states (N, d), float32, and the tokens that were drawn from them (N,).
    """
    start = torch.full((texts, 1), lm.start_id, device=lm.device)
    noise = torch.rand(texts, tokens, generator=torch.Generator().manual_seed(seed))
    sampler = RowSampler(noise, SamplingConfig(top_p=0.95), lm.stop_ids)
    recorder = HiddenStateRecorder(lm, sampler)
    with unsteered(lm.model), lm.head.module.register_forward_pre_hook(recorder.hook, prepend=True):
        decode(lm, {"input_ids": start, "attention_mask": torch.ones_like(start)}, tokens, [sampler, recorder])
    return torch.cat(recorder.h).float(), torch.cat(recorder.drawn)


def fisher_factors(lm: LM) -> FisherFactors:
    """The Fisher factors of a model: measured once, then read from the disk cache."""
    file = cache_dir() / f"fisher-{_FORMAT}-{lm.fingerprint}-{lm.tokenizer_fingerprint[:8]}.safetensors"
    factors = FisherFactors.read(file)
    if factors is None:
        factors = _measure(lm)
        with contextlib.suppress(OSError, SafetensorError):  # without a cache the next fit measures again
            factors.save(file)
    return factors


def _measure(lm: LM) -> FisherFactors:
    """Sums over blocks of texts, each with a seed of its own, so that memory does not grow with the model's width."""
    d = lm.hidden_size
    c, f = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    total, rows = torch.zeros(d, dtype=torch.float64), 0
    for block in range(math.ceil(max(FISHER_TEXTS, _TEXTS_PER_DIMENSION * d) / FISHER_TEXTS)):
        h, targets = sample_unconditional(lm, FISHER_TEXTS, min(FISHER_TOKENS, lm.max_length), FISHER_SEED + block)
        r, _ = lm.head.residuals(h, targets)
        h, r = h.cpu().double(), r.cpu().double()
        c += h.T @ h
        f += r.T @ r
        total += h.sum(0)
        rows += len(h)
    return FisherFactors(c / rows, f / rows, total / rows)
