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

_TEXTS, _TOKENS = 2, 32
# Length of e, relative to that of y: small, and yet far above the rounding of a stream of 16-bit numbers that is some
# hundred times as long.
_SIZE = 0.3
# The least cosine of e and the stream's change, at the median token.
_LEAST_COSINE = 0.5


def stream_effects(lm: LM, sites: Sequence[Site]) -> dict[str, float]:
    """The effects c of linear layers on the stream after their layers, by name: 1 where an output is added as it is.

    Raises:
        DataError: a layer does not write to the stream.
        ModelError: a forward pass does not go through a layer exactly once.
    """
    texts, found = _own_texts(lm), dict[str, float]()
    for site in sites:
        effect = _effect(lm, site, texts)
        if effect is None:
            others = "".join(f", {each.name}" for each in writing_sites(lm, [site.layer]))
            raise DataError(
                f"{site.name} does not add to the residual stream of {lm.name}, so it cannot make the shift of a "
                f"description there. Give {site.layer} itself{others}, or head."
            )
        found[site.name] = effect
    return found


def writing_sites(lm: LM, layers: Sequence[str]) -> list[Site]:
    """The linear layers in some layers, ``layers.N``, that write to the residual stream, in the order of the model."""
    texts, found = _own_texts(lm), list[Site]()
    for site in all_sites(lm.model).values():
        if site.is_weight and site.layer in layers:
            # An expert is not called once, or with some of the tokens only.
            with suppress(ModelError, RuntimeError, IndexError):
                found += [site] if _effect(lm, site, texts) is not None else []
    return found


def _own_texts(lm: LM) -> list[list[int]]:
    return own_texts(lm, _TEXTS, min(_TOKENS, lm.max_length - 1), FISHER_SEED)


@torch.inference_mode()
def _effect(lm: LM, site: Site, texts: Sequence[Sequence[int]]) -> float | None:
    """c, the median over tokens; None where the layer does not write to the stream."""
    stream = find_site(lm.model, site.layer)
    if site.outputs != stream.outputs:
        return None
    before = passing_at(lm, texts, [site, stream])
    with lm.exclusive_use(), _changed(site):
        after = passing_at(lm, texts, [site, stream])
    change = after[stream.name].y.float() - before[stream.name].y.float()
    e = (after[site.name].y.float() - before[site.name].y.float()).to(change.device)
    # The state of the first token may be an attention sink, a hundred times as long as the others.
    usual = torch.cat([torch.arange(len(ids) - 1) > 0 for ids in texts]).to(change.device)
    e, change = e[usual], change[usual]
    along = (e * change).sum(-1)
    effects, cosines = along / e.square().sum(-1), along / (e.norm(dim=-1) * change.norm(dim=-1))
    return float(effects.median()) if cosines.median() >= _LEAST_COSINE else None


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
