"""Text that the unsteered model samples after its start token alone, and the Fisher factors measured on it."""

from __future__ import annotations

import contextlib
import math

import torch
from safetensors import SafetensorError
from torch import Tensor

from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.decoder import Decoder
from lmsteer.generation.generate import not_finite
from lmsteer.generation.row import Row
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.generation.writing import write
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.steer.hook import unsteered
from lmsteer.util.devices import float64_device
from lmsteer.util.disk_cache import cache_dir
from lmsteer.util.linalg import add_product, in_float64

# 192 texts of 32 tokens give some ten rows for each of the 576 dimensions of the default model: half a minute on two
# cores. Wider models get as many rows a dimension, or C and F would be singular and damping would invert noise.
FISHER_TEXTS, FISHER_TOKENS = 192, 32
_TEXTS_PER_DIMENSION = 1 / 3
FISHER_SEED = 0
# Raised when any of this changes, so that an older cache file is not read.
_FORMAT = 2


def own_texts(lm: LM, texts: int, tokens: int, seed: int) -> list[list[int]]:
    """Texts that the unsteered model samples, each with the start token before it; to their end, if they have one.

    The first of them are the same, however many there are.

    Args:
        lm: the model.
        texts: the number of texts.
        tokens: the length of each text in tokens, at most.
        seed: the seed of the random numbers.

    Raises:
        NotFiniteError: the model's logits are not finite numbers.
    """
    rows, found = _rows(lm, texts, tokens, seed), dict[int, list[int]]()
    with unsteered(lm.model):
        for written in write(lm, rows, FISHER_TEXTS):
            if any(text.failed for text in written):
                raise not_finite(lm, "the start of a text", "")
            found |= {text.row: [lm.start_id, *text.ids] for text in written}
    return [found[row] for row in range(texts)]


def fisher_blocks(width: int) -> int:
    """The number of blocks of ``FISHER_TEXTS`` texts that factors of a width are measured on."""
    return math.ceil(max(FISHER_TEXTS, _TEXTS_PER_DIMENSION * width) / FISHER_TEXTS)


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

    Raises:
        NotFiniteError: the model's logits are not finite numbers.
    """
    waiting, stop_ids = _rows(lm, texts, tokens, seed), torch.tensor(lm.stop_ids, dtype=torch.int64)
    h, drawn = list[Tensor](), list[Tensor]()
    with unsteered(lm.model):
        decoder = Decoder(lm)
        size = decoder.max_rows or texts
        for first in range(0, texts, size):
            rows = waiting[first : first + size]
            decoder.admit(rows)
            is_running = torch.ones(len(rows), dtype=torch.bool)
            for _ in range(tokens):
                done = decoder.step()
                h.append(done.hidden[is_running.to(done.hidden.device)].float())
                drawn.append(done.tokens[is_running.to(done.tokens.device)])
                is_running &= ~torch.isin(done.tokens.cpu(), stop_ids)
            decoder.clear()
    tokens_drawn = torch.cat(drawn)
    if (tokens_drawn == OVERFLOW).any():
        raise not_finite(lm, "the start of a text", "")
    return torch.cat(h), tokens_drawn


def _rows(lm: LM, texts: int, tokens: int, seed: int) -> list[Row]:
    """The rows of texts of the unsteered model."""
    noise = torch.rand(texts, tokens, generator=torch.Generator().manual_seed(seed))
    return [Row(Start([lm.start_id]), own, sampling=SamplingConfig(top_p=0.95)) for own in noise]


def fisher_factors(lm: LM) -> FisherFactors:
    """The Fisher factors of a model: measured once, then read from the disk cache."""
    file = cache_dir() / f"fisher-{_FORMAT}-{lm.fingerprint}-{lm.tokenizer_fingerprint[:8]}.safetensors"
    factors = FisherFactors.read(file)
    if factors is None or factors.bases is None:
        factors = (factors or _measure(lm)).with_eigenbases().to(torch.device("cpu"))
        with contextlib.suppress(OSError, SafetensorError):  # without a cache the next fit measures again
            factors.save(file)
    return factors


def _measure(lm: LM) -> FisherFactors:
    """Factors on the device of the head, of sums over blocks of texts, each with a seed of its own.

    So memory does not grow with the model's width.
    """
    d, device, rows = lm.hidden_size, float64_device(lm.head.device), 0
    c, f = (torch.zeros(d, d, dtype=torch.float64, device=device) for _ in range(2))
    total = torch.zeros(d, dtype=torch.float64, device=device)
    for block in range(fisher_blocks(d)):
        h, targets = sample_unconditional(lm, FISHER_TEXTS, min(FISHER_TOKENS, lm.max_length), FISHER_SEED + block)
        r, _ = lm.head.residuals(h, targets)
        add_product(c, h, h)
        add_product(f, r, r)
        total += in_float64(h, device).sum(0)
        rows += len(h)
    return FisherFactors(c / rows, f / rows, total / rows)
