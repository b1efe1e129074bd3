"""Gist masks: what follows the gist tokens does not see the prompt before them (Mu et al., 2023, section 3.1).

The mask is an overlay on the model's own, through the function by which transformers makes the masks of every
attention that it knows: sliding windows, hybrids of several kinds of layers and padding stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from lmsteer.errors import ModelError
from lmsteer.gist.layout import Layout, Section
from lmsteer.model.lm import LM


class GistCondition(StrEnum):
    """What is hidden from whom.

    ``GIST``: the prompt from what follows the gist tokens. ``POSITIVE``: nothing. ``NEGATIVE``: the prompt from the
    gist tokens too, so that nobody ever learns of it.
    """

    GIST = "gist"
    POSITIVE = "positive"
    NEGATIVE = "negative"


# Which tokens are kept from seeing which.
Pairs = Sequence[tuple[Section, Section]]
HIDDEN: dict[GistCondition, Pairs] = {
    GistCondition.GIST: ((Section.REST, Section.PROMPT),),
    GistCondition.POSITIVE: (),
    GistCondition.NEGATIVE: ((Section.REST, Section.PROMPT), (Section.GIST, Section.PROMPT)),
}
Overlay = Callable[[Any, Any, Any, Any], Any]


def overlay(sections: Tensor, hidden: Pairs) -> Overlay:
    """Whether a query may see a key, by row, head, query and key, for sections (B, T)."""
    sees = torch.ones(len(Section), len(Section), dtype=torch.bool, device=sections.device)
    for who, what in hidden:
        sees[who, what] = False

    def visible(row: Any, _: Any, query: Any, key: Any) -> Any:
        return sees[sections[row, query], sections[row, key]]

    return visible


def gist_masks(lm: LM, layout: Layout, condition: GistCondition) -> Any:
    """Masks for the model's forward pass over rows: (B, 1, T, T), or one for each kind of layer that the model has.

    Raises:
        ModelError: a kind of layer that takes none.
    """
    shape = torch.empty(*layout.ids.shape, 1, dtype=lm.model.dtype, device=layout.ids.device)
    masks = create_masks_for_generate(
        lm.model.config,
        shape,
        layout.mask,
        None,
        layout.positions,
        and_mask_function=overlay(layout.sections, HIDDEN[condition]),
    )
    if any(mask is None or mask.dim() != 4 for mask in (masks.values() if isinstance(masks, dict) else [masks])):
        raise ModelError(f"{type(lm.model).__name__} has layers that take no mask of which token sees which.")
    return masks
