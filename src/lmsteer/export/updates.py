"""What an export changes in a model: its head, ``E (I + s W)ᵀ = E + s (E B) Aᵀ`` with ``W = A Bᵀ``, and linear layers.

Both changes are of low rank, so each is a LoRA: ``lora_A = Aᵀ`` (r, d) and ``lora_B = s E B`` (V, r) at the head, and
``lora_A = Aᵀ`` (r, n) and ``lora_B = s B`` (m, r) at a linear layer. On the stream after a layer there is no weight.

Symbols (shapes): ``E`` (V, d) the output embedding, ``A``, ``B`` (d, r) the factors of all steers of a mix together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmsteer.errors import SteerError
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors
from lmsteer.steer.algebra import merge
from lmsteer.steer.hook import sites_of
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import HEAD, Site

# Rows of E that are merged at once: in float32 and 4,096 wide, 64 MiB.
_ROWS = 4096


def check_exportable(lm: LM, mix: Mix) -> None:
    """Refuse a mix that is not one linear map of a model's hidden states.

    Raises:
        SteerError: the mix has no steers, steers of another form than multiply, or strengths row by row.
        WrongBaseError: a steer belongs to another base.
        ModelError: the weights of the model are split over processes.
    """
    lm.check_in_one_process("an export")
    lm.check_base(mix)
    if len(mix.strengths) != 1 or not mix.steers or any(steer.form != "multiply" for steer in mix.steers.values()):
        raise SteerError("an export takes steers of form multiply, with one strength each.")


def weight_sites(model: PreTrainedModel, mix: Mix) -> list[Site]:
    """The linear layers inside a model where a mix acts; the values of its weights are not needed.

    Raises:
        SteerError: it acts on the stream after a layer, too, which no weight can do.
    """
    sites = sites_of(model, mix)
    if streams := [site.name for site in sites if not site.is_weight]:
        raise SteerError(
            f"no weight does what a steer does on the stream, at {', '.join(streams)}: fit it at linear layers "
            f"(--sites '{streams[0]}.mlp.down_proj', say), which an export can hold."
        )
    return sites


def layer_factors(mix: Mix, sites: Sequence[Site]) -> dict[str, LoRAFactors]:
    """The LoRAs of linear layers where a mix acts, by the names of their sites: float32, on the CPU.

    Args:
        mix: multiply steers, with one strength each.
        sites: the linear layers (``weight_sites``).
    """
    inner = merge(mix, "export").inner
    return {site.name: LoRAFactors(inner[site.name].a.T, inner[site.name].b) for site in sites}


def lora_factors(e: Tensor, mix: Mix, sites: Sequence[Site]) -> dict[str, LoRAFactors]:
    """A mix as a LoRA, as ``layer_factors``; with the factors of the head, if it acts there.

    Args:
        e: the output embedding (V, d).
        mix: multiply steers, with one strength each.
        sites: the linear layers where the mix acts (``weight_sites``).
    """
    layers, steer = layer_factors(mix, sites), merge(mix, "export")
    if steer.rank:
        written = torch.cat([rows.cpu().float() @ steer.factors["B"] for rows in e.split(_ROWS)])
        layers[HEAD] = LoRAFactors(steer.factors["A"].T, written)
    return layers


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
