"""The logits of a steer on a few texts, by its hooks and in other ways that must come to the same.

The other ways know nothing of the hooks: whole matrices in the weights of the head and of linear layers, products
behind layers, and a LoRA on the head.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmsteer.model.batching import pad
from lmsteer.model.lm import LM
from lmsteer.model.lora import LoRAFactors, lora_update
from lmsteer.model.weights import temporary_update
from lmsteer.reading.encode import encode
from lmsteer.steer.hook import sites_of, unsteered
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import HEAD, output_of, with_output
from lmsteer.steer.steer import Steer

Side = Literal["left", "right"]
# Texts that identities are checked on.
TEXTS = ("The weather this morning is", "I have read the book that you gave me and", "It")


def mix_of(steer: Steer, strength: float | list[float]) -> Mix:
    """A steer alone, at one strength or at one for each of the texts."""
    return Mix({steer.card.name: steer}, {steer.card.name: strength})


def logits_of(lm: LM, mix: Mix | None = None, side: Side = "right") -> Tensor:
    """Logits (N, V) at the N real tokens of a padded batch of texts."""
    ids, mask = batch_of(lm, side)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    extra = {"position_ids": positions} if lm.takes_positions else {}
    with unsteered(lm.model), lm.steered(Mix({}, {}) if mix is None else mix):
        return lm.model(input_ids=ids, attention_mask=mask, use_cache=False, **extra).logits[mask.bool()]


def batch_of(lm: LM, side: Side) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (B, T) of the texts; the start token stands for a text in which there is no token."""
    texts = [ids[: lm.max_length] or [lm.start_id] for ids in encode(lm, TEXTS, start=False, end=False)]
    return pad(texts, lm.pad_id, lm.device, side)


def hidden_states(lm: LM) -> Tensor:
    """The unsteered hidden states (N, d) at the N tokens of the texts."""
    ids, mask = batch_of(lm, "right")
    return lm.hidden_states(ids, mask)[mask.bool()]


def by_explicit_maps(lm: LM, steer: Steer, strength: float) -> tuple[Tensor, Tensor]:
    """The logits by the hooks, and those where weights and streams are changed by whole matrices."""
    inside = steer.at_sites(steer.sites)
    with ExitStack() as stack:
        stack.enter_context(lm.exclusive_use())
        updates = []
        for site in sites_of(lm.model, mix_of(inside, strength)):
            a, b = inside.inner[site.name]
            if site.is_weight and site.module.weight.dtype == lm.model.dtype:
                updates.append((f"{site.path}.weight", lora_update(site.module, LoRAFactors(a.T, strength * b))))
            else:  # a stream, or a weight that is quantised
                hook = partial(_mapped, site.is_weight, strength * a @ b.T)
                stack.callback(site.module.register_forward_hook(hook).remove)
        stack.enter_context(temporary_update(lm.model, updates))
        explicit = logits_of(lm)
    return logits_of(lm, mix_of(inside, strength)), explicit


def _mapped(reads_input: bool, w: Tensor, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """The output y of a layer and what W makes of its input, or of y itself."""
    y = output_of(output)
    x: Tensor = args[0] if reads_input else y
    moved = (y.float() + x.float() @ w.to(y.device)).to(y.dtype)
    return with_output(output, moved)


def by_explicit_head(lm: LM, steer: Steer, strength: float) -> tuple[Tensor, Tensor]:
    """The logits (N, V) by the hooks, and by a head whose weight is transformed; of the part at the head."""
    steer = steer.at_sites([HEAD])
    h, weight, bias = hidden_states(lm).float(), lm.head.weight.float(), lm.head.bias
    raw = bias.float() if bias is not None else torch.zeros(len(weight), device=weight.device)
    if steer.form == "multiply":
        weight = weight + strength * weight @ steer.matrix().to(weight.device).T
    elif steer.form == "add":
        raw = raw + strength * weight @ steer.factors["a"].to(weight.device)
    else:
        raw = raw + strength * steer.factors["o"].to(weight.device)
    return logits_of(lm, mix_of(steer, strength)), lm.head.post(h @ weight.T + raw)


def by_lora(lm: LM, steer: Steer, strength: float) -> tuple[Tensor, Tensor]:
    """The logits (N, V) by the hooks, and by a LoRA on the head; of the part there."""
    steer = steer.at_sites([HEAD])
    h, weight = hidden_states(lm).float(), lm.head.weight.float()
    lora_a, lora_b = steer.factors["A"].to(h.device).T, strength * weight @ steer.factors["B"].to(h.device)
    return logits_of(lm, mix_of(steer, strength)), lm.head.post(lm.head.raw(h).float() + (h @ lora_a.T) @ lora_b.T)
