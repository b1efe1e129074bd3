"""What an exported model changes: linear layers, and its head, ``E (I + s W)ᵀ = E + s (E B) Aᵀ`` with ``W = A Bᵀ``.

Symbols (shapes): ``E`` (V, d) the output embedding, ``A``, ``B`` (d, r) the factors of all steers of a mix together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.model.lm import LM
from lmsteer.steer.algebra import merge
from lmsteer.steer.hook import sites_of
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import Site

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


def weight_sites(lm: LM, mix: Mix) -> list[Site]:
    """The linear layers inside a model where a mix acts.

    Raises:
        SteerError: it acts on the stream after a layer, too, which no weight can do.
    """
    sites = sites_of(lm.model, mix)
    if streams := [site.name for site in sites if not site.is_weight]:
        raise SteerError(
            f"no weight does what a steer does on the stream, at {', '.join(streams)}: fit it at linear layers "
            f"(--sites '{streams[0]}.mlp.down_proj', say), which an export can hold."
        )
    return sites


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
