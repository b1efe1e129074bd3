"""Which sites the names of a fit stand for: patterns, and the presets ``deep`` and ``lora``.

The presets stand for what does best in generated text (docs/log.md). Labels and descriptions ask for different ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmsteer.errors import DataError
from lmsteer.fitting.inside.stream_effect import writing_sites
from lmsteer.fitting.site_names import DEEP, LORA, is_inside
from lmsteer.model.lm import LM
from lmsteer.steer.sites import HEAD, Site, layer_name, match_sites, model_layers


def sites_of_labels(lm: LM, patterns: Sequence[str]) -> list[Site]:
    """The sites inside a model where a fit from labels lets a steer act, in the order of the model; never the head.

    ``deep`` is the stream after the middle layer, ``lora`` the linear layers of the middle third that write to it.

    Raises:
        DataError: no linear layer writes to the stream, where ``lora`` asks for some.
        SteerError: a pattern matches nothing.
        ModelError: the layers of the model cannot be found.
    """
    count = len(model_layers(lm.model))
    return _sites(lm, patterns, {DEEP: [count // 2], LORA: [*range(count // 3, max(2 * count // 3, count // 3 + 1))]})


def sites_of_description(lm: LM, patterns: Sequence[str]) -> list[Site | None]:
    """The places where a fit from descriptions lets a steer act, in the order in which they are fitted.

    The head comes last, as None. ``deep`` is the stream after two thirds of the layers, and the head; ``lora`` the
    linear layers that write to the stream half, two thirds and five sixths of the way. A linear layer comes before the
    stream after it, which its map changes.

    Raises:
        DataError: no linear layer writes to the stream, where ``lora`` asks for some.
        SteerError: a pattern matches nothing.
        ModelError: the layers of the model cannot be found.
    """
    count = len(model_layers(lm.model))
    places = {DEEP: [2 * count // 3], LORA: sorted({count // 2, 2 * count // 3, 5 * count // 6})}
    found = _sites(lm, patterns, places) if is_inside(patterns) else []
    layers = [*dict.fromkeys(site.layer for site in found)]
    sites = sorted(found, key=lambda site: (layers.index(site.layer), not site.is_weight))
    return [*sites, *([None] if {HEAD, DEEP} & {*patterns} else [])]


def check_ranks(sites: Sequence[Site], rank: int | None) -> None:
    """Refuse a rank that the map of a site cannot have; None, which leaves the choice to the spectrum, passes.

    Raises:
        DataError: the rank is larger than one of the sides of a map.
    """
    for site in sites:
        if rank is not None and rank > min(site.sizes):
            raise DataError(f"the rank is {rank}, but a map at {site.name} has a rank of at most {min(site.sizes)}.")


def _sites(lm: LM, patterns: Sequence[str], layers: Mapping[str, Sequence[int]]) -> list[Site]:
    """The sites that match any of some patterns; presets stand for some layers."""
    named = list[str]()
    for pattern in patterns:
        streams = [layer_name(number) for number in layers.get(pattern, ())]
        if pattern == LORA:
            named += _writing(lm, streams)
        elif pattern == DEEP:
            named += streams
        elif pattern != HEAD:
            named.append(pattern)
    return match_sites(lm.model, named)


def _writing(lm: LM, streams: Sequence[str]) -> list[str]:
    """The names of the linear layers that write to the streams after some layers."""
    found = [site.name for site in writing_sites(lm, streams)]
    if not found:
        lm.check_in_one_process(f"the preset {LORA}")
        raise DataError(
            f"{LORA}: no linear layer of {lm.name} in {', '.join(streams)} is found to write to the residual stream. "
            "Name the linear layers, or let the steer act at the head or after a layer."
        )
    return found
