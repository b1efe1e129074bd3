"""The Fisher factors of sites inside a model, and the divergence of a steer, both on the model's own text.

At a site whose map reads x and whose output has the gradient g of the log-likelihood, the factors of K-FAC (Martens and
Grosse, 2015) are ``C = E[x xᵀ]`` (n, n) and ``F = E[g gᵀ]`` (m, m). They price a map on its own and to second order.
What a whole steer costs, of which the parts meet in later layers, is measured: ``KL(p₀ ‖ p_s)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from lmsteer.generation.unconditional import FISHER_SEED, FISHER_TEXTS, FISHER_TOKENS, fisher_blocks, own_texts
from lmsteer.model.batching import length_buckets
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.inside import gradients_at
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import own_tokens
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site
from lmsteer.steer.steer import Steer
from lmsteer.util.devices import float64_device
from lmsteer.util.disk_cache import cache_dir
from lmsteer.util.linalg import add_product, in_float64, usual_square
from lmsteer.util.progress import Progress

# Raised when any of this changes, so that an older cache file is not read.
_FORMAT = 2
# Texts that a divergence is measured on: some of what factors are measured on.
DIVERGENCE_TEXTS = 48


def _texts(lm: LM, count: int) -> list[list[int]]:
    texts = own_texts(lm, count, min(FISHER_TOKENS, lm.max_length - 1), FISHER_SEED)
    return [ids for ids in texts if len(ids) > 1]


def site_factors(lm: LM, sites: Sequence[Site], progress: Progress) -> dict[str, FisherFactors]:
    """The Fisher factors of sites: measured in one pass for all, then read from the disk cache.

    Args:
        lm: the model.
        sites: the sites.
        progress: reports how far the pass is.
    """
    files = {site.name: _file(lm, site) for site in sites}
    known = {name: FisherFactors.read(file) for name, file in files.items()}
    missing = [site for site in sites if known[site.name] is None]
    measured = _measured(lm, missing, progress) if missing else {}
    for name, factors in measured.items():
        with contextlib.suppress(OSError, SafetensorError):  # without a cache the next fit measures again
            factors.save(files[name])
    return {name: factors for name, factors in {**known, **measured}.items() if factors is not None}


class OwnText:
    """Some of the model's own text, and how far a steer makes the model diverge from itself on it.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LM) -> None:
        texts = _texts(lm, DIVERGENCE_TEXTS)
        batches = [[texts[i] for i in batch] for batch in length_buckets(texts)]
        self._lm, self._batches = lm, [(ids, lm.predicting(ids)[0]) for ids in batches]

    @torch.inference_mode()
    def divergence(self, steer: Steer, strength: float) -> float:
        """``KL(p₀ ‖ p_s)`` of a steer at a strength, in nats a token, the mean over texts."""
        mix, head, total, count = Mix({"s": steer}, {"s": strength}), self._lm.head, 0.0, 0
        for ids, unsteered in self._batches:
            steered, _ = self._lm.predicting(ids, mix)
            for h, moved in head.pieces(unsteered, steered):
                p = torch.log_softmax(head.logits(h), -1)
                raw = mix.steer_logits(head.raw(mix.steer_hidden_states(moved)).float())
                total += float((p.exp() * (p - torch.log_softmax(head.post(raw), -1))).sum())
            count += len(unsteered)
        return total / count


def _measured(lm: LM, sites: Sequence[Site], progress: Progress) -> Mapping[str, FisherFactors]:
    texts = _texts(lm, FISHER_TEXTS * fisher_blocks(lm.hidden_size))

    def zeros(site: Site, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=float64_device(site.device))

    c = {site.name: zeros(site, site.inputs, site.inputs) for site in sites}
    f = {site.name: zeros(site, site.outputs, site.outputs) for site in sites}
    total = {site.name: zeros(site, site.inputs) for site in sites}
    squares = dict[str, list[Tensor]]((site.name, []) for site in sites)
    count = 0

    def likelihood(h: Tensor, targets: Tensor) -> list[Tensor]:
        return [lm.head.residuals(h, targets)[0]]

    with progress("reading the model's own text", len(texts), 0) as step:
        for batch in length_buckets(texts):
            ids = [texts[i] for i in batch]
            for name, (x, (g,)) in gradients_at(lm, ids, own_tokens(ids), sites, likelihood).items():
                add_product(c[name], x, x)
                add_product(f[name], g, g)
                exact = in_float64(x, total[name].device)
                total[name] += exact.sum(0)
                squares[name].append((exact**2).mean(1).cpu())
            count += sum(map(len, ids)) - len(ids)
            step(len(ids), "")

    def factors(name: str) -> FisherFactors:
        unit = usual_square(torch.cat(squares[name]))
        found = FisherFactors(c.pop(name) / count, f.pop(name) / count, total[name] / count, unit)
        return found.with_eigenbases().to(torch.device("cpu"))

    return {site.name: factors(site.name) for site in sites}


def _file(lm: LM, site: Site) -> Path:
    return (
        cache_dir() / f"fisher-site-{_FORMAT}-{lm.fingerprint}-{lm.tokenizer_fingerprint[:8]}-{site.name}.safetensors"
    )
