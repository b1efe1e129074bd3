"""The forward pass under a gist mask: rows of prompt, gist tokens and rest -> hidden states, all at once."""

from __future__ import annotations

from torch import Tensor

from lmsteer.gist.layout import Layout
from lmsteer.gist.masks import Condition, gist_masks
from lmsteer.lm import LM


def masked_states(lm: LM, layout: Layout, condition: Condition = Condition.GIST) -> Tensor:
    """The rows (B, T, d) that the head is given under a condition; gradients go through.

    An adapter has to be installed. Under ``GIST``, what follows the gist tokens gets what their cache would give it.
    """
    masks = gist_masks(lm, layout, condition)
    return lm.before_head(input_ids=layout.ids, attention_mask=masks, position_ids=layout.positions)
