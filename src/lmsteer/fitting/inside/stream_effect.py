"""How the residual stream takes up what a linear layer writes.

Most models add the output y of an attention's or an MLP's last linear layer to the stream as it is: a change e of y is
a change e of the stream after the layer, or nearly so where the MLP reads it, too. Some scale it first, or normalise
it. So the effect c, ``Δstream ≈ c e``, is measured, at every token of some of the model's own text with a small e drawn
at random. Where the stream's change is not in the direction of e, as behind a query or in the middle of an MLP, the
layer does not write to the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from lmsteer.errors import DataError, ModelError
from lmsteer.generation.unconditional import FISHER_SEED, own_texts
from lmsteer.model.inside import passing_at
from lmsteer.model.lm import LM
from lmsteer.steer.sites import Site, all_sites, find_site, output_of, with_output

_TEXTS, _TOKENS = 2, 24
# Length of e, relative to that of y: small, and yet far above the rounding of 16-bit numbers.
_SIZE = 0.1
# The least cosine of e and the stream's change, and the most that c may spread around its mean, relative to it.
_LEAST_COSINE, _MOST_SPREAD = 0.5, 0.5


def stream_effect(lm: LM, site: Site) -> float:
    """The effect c of a linear layer's output on the stream after its layer: 1 where it is added as it is.

    Raises:
        DataError: the layer does not write to the stream.
        ModelError: a forward pass does not go through the layer exactly once.
    """
    effect = _effect(lm, site, _own_text(lm))
    if effect is None:
        others = "".join(f", {each.name}" for each in writing_sites(lm, [site.layer]))
        raise DataError(
            f"{site.name} does not add to the residual stream of {lm.name}, so it cannot make the shift of a "
            f"description there. Give {site.layer} itself{others}, or head."
        )
    return effect


def writing_sites(lm: LM, layers: Sequence[str]) -> list[Site]:
    """The linear layers in some layers, ``layers.N``, that write to the residual stream, in the order of the model."""
    ids, found = _own_text(lm), list[Site]()
    for site in all_sites(lm.model).values():
        if site.is_weight and site.layer in layers:
            with suppress(ModelError):  # not called once: an expert, say
                found += [site] if _effect(lm, site, ids) is not None else []
    return found


def _own_text(lm: LM) -> list[list[int]]:
    return own_texts(lm, _TEXTS, min(_TOKENS, lm.max_length - 1), FISHER_SEED)


@torch.inference_mode()
def _effect(lm: LM, site: Site, ids: Sequence[Sequence[int]]) -> float | None:
    """c, the mean over tokens; None where the layer does not write to the stream."""
    stream = find_site(lm.model, site.layer)
    if site.outputs != stream.outputs:
        return None
    before = passing_at(lm, ids, [site, stream])
    with lm.exclusive_use(), _changed(site):
        after = passing_at(lm, ids, [site, stream])
    e, change = (after[name].y.float() - before[name].y.float() for name in (site.name, stream.name))
    along = (e.to(change.device) * change).sum(-1)
    effects, cosines = along / e.square().sum(-1), along / (e.norm(dim=-1) * change.norm(dim=-1))
    is_written = cosines.mean() >= _LEAST_COSINE and effects.std() <= _MOST_SPREAD * effects.mean()
    return float(effects.mean()) if is_written else None


@contextmanager
def _changed(site: Site) -> Iterator[None]:
    """Add e to the output of a linear layer, within a ``with`` block."""
    random = torch.Generator().manual_seed(0)

    def change(_: nn.Module, __: Any, output: Any) -> Any:
        y = output_of(output)
        e = torch.randn(y.shape, generator=random).to(y)
        return with_output(output, y + _SIZE * e * y.norm(dim=-1, keepdim=True) / e.norm(dim=-1, keepdim=True))

    handle = site.module.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
