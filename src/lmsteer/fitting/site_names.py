"""Where a fit may let a steer act, in words. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

from lmsteer.errors import DataError

HEAD_ALONE = ("head",)
# These stand for sites of the model at hand (``inside.presets``): on the residual stream, and at linear layers.
DEEP, LORA = "deep", "lora"


def check_site_names(sites: Sequence[str]) -> None:
    """Refuse what is no list of names or patterns of sites.

    Raises:
        DataError: it is none, or a name is neither a preset nor has the form of a site inside a model.
    """
    if not sites or isinstance(sites, str) or not all(sites):
        raise DataError(
            f"the sites are {sites!r}; they must be a list of names: head, {DEEP}, {LORA}, or sites inside the model."
        )
    known = (*HEAD_ALONE, DEEP, LORA)
    if odd := [name for name in sites if name not in known and "." not in name]:
        raise DataError(
            f"there is no site {odd[0]!r}: give {', '.join(known)}, or sites inside the model, such as layers.15 or "
            "'layers.*.mlp.down_proj'."
        )


def is_inside(sites: Sequence[str]) -> bool:
    """Whether a steer of these sites acts inside the model."""
    return set(sites) != {*HEAD_ALONE}
