"""Gist masks: tokens after the gist tokens do not see the prompt before them (Mu et al., 2023, section 3.1).

The gist mask is combined with the model's own mask, through the function by which transformers makes the masks of every
attention that it knows. So sliding windows, hybrids of several kinds of layers and padding stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from lmsteer.errors import ModelError
from lmsteer.gist.config import GistCondition
from lmsteer.gist.layout import Layout, Section
from lmsteer.model.lm import LM

# By condition, pairs of sections (query, key): tokens of the first do not see those of the second.
_HIDDEN: dict[GistCondition, Sequence[tuple[Section, Section]]] = {
    GistCondition.GIST: ((Section.SUFFIX, Section.PROMPT),),
    GistCondition.POSITIVE: (),
    GistCondition.NEGATIVE: ((Section.SUFFIX, Section.PROMPT), (Section.GIST, Section.PROMPT)),
}
MaskFunction = Callable[[Any, Any, Any, Any], Any]


def mask_function(sections: Tensor, condition: GistCondition) -> MaskFunction:
    """Whether a query may see a key under a condition, by row, head, query and key, for sections (B, T)."""
    allowed = torch.ones(len(Section), len(Section), dtype=torch.bool, device=sections.device)
    for query, key in _HIDDEN[condition]:
        allowed[query, key] = False

    def visible(row: Any, _: Any, query: Any, key: Any) -> Any:
        return allowed[sections[row, query], sections[row, key]]

    return visible


def gist_masks(lm: LM, layout: Layout, condition: GistCondition) -> Any:
    """Masks for the model's forward pass over rows: (B, 1, T, T), or one for each kind of layer that the model has.

    Raises:
        ModelError: a kind of layer that takes no such mask.
    """
    shape = torch.empty(*layout.ids.shape, 1, dtype=lm.model.dtype, device=layout.ids.device)
    masks = create_masks_for_generate(
        lm.model.config,
        shape,
        layout.mask,
        None,
        layout.positions,
        and_mask_function=mask_function(layout.sections, condition),
    )
    if any(mask is None or mask.dim() != 4 for mask in (masks.values() if isinstance(masks, dict) else [masks])):
        raise ModelError(f"{type(lm.model).__name__} has layers that take no mask of which token sees which.")
    return masks
