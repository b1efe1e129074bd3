"""The head of an exported model: ``E (I + s W)ᵀ``, computed as ``E + s (E B) Aᵀ``, with ``W = A Bᵀ``.

Symbols (shapes): ``E`` (V, d) the output embedding, ``A``, ``B`` (d, r) the factors of all steers of a mix together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.model.lm import LM
from lmsteer.steer.algebra import merge
from lmsteer.steer.mix import Mix

# Rows of E that are merged at once: in float32 and 4,096 wide, 64 MiB.
_ROWS = 4096


def check_exportable(lm: LM, mix: Mix) -> None:
    """Refuse a mix that is not one linear map of a model's hidden states.

    Raises:
        SteerError: the mix has no steers, steers of another form than multiply, or strengths row by row.
        WrongBaseError: a steer belongs to another base.
    """
    lm.check_base(mix)
    if len(mix.strengths) != 1 or not mix.steers or any(steer.form != "multiply" for steer in mix.steers.values()):
        raise SteerError("an export takes steers of form multiply, with one strength each.")


@torch.inference_mode()
def merged_head(lm: LM, mix: Mix) -> Tensor:
    """The steered output embedding (V, d), on the CPU, in the dtype of the head.

    It is computed on the model's device, some rows at a time, so that the device needs no room for a second head.
    """
    e, factors = lm.head.weight, merge(mix, "export").factors
    a, b = (factors[name].to(e.device, torch.float32) for name in ("A", "B"))
    merged = torch.empty(e.shape, dtype=e.dtype)
    for rows, target in zip(e.split(_ROWS), merged.split(_ROWS), strict=True):
        rows = rows.float()
        target.copy_(rows + (rows @ b) @ a.T)
    return merged
