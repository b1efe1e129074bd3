"""Proofs, on a few tokens, that a model can be steered: no list of model names says so.

* **Head**: its logits are what ``Head`` computes of its hidden states.
* **Causality**: a later token does not move earlier hidden states. Otherwise a text would be read with the knowledge of
  what it is to predict, and the hidden states of a prompt would move while its continuation is generated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmsteer.errors import ModelError
from lmsteer.steer.hook import unsteered

if TYPE_CHECKING:
    from lmsteer.model.lm import LM

# Logits that differ by more than this share of their size mean that the model's config does not describe its head.
# Rounding is 1e-6 in float32 and 8e-3 in bfloat16.
_HEAD_TOLERANCE = 2e-2
# A share of the size of the earlier hidden states. In causal models a later token moves them by nothing at all; in
# mixtures of experts by 5e-7, since tokens of one expert are multiplied together. Tokens that see later ones move by
# 3e-3 in a small model of random weights, and by far more in trained ones. Half precision rounds to 4e-3 and 5e-4.
_CAUSAL_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-3, torch.float16: 1e-3}
# Activations that are quantised with one scale for all tokens round each by the size of the others.
_QUANTISED_TOLERANCE = 5e-2


@torch.inference_mode()
def prove(lm: LM) -> None:
    """Refuse a model that is not what it is taken for, in two forward passes over four tokens.

    Raises:
        ModelError: its logits are not finite, or not what its head makes of its hidden states; earlier hidden states
            depend on later tokens, or no hidden state depends on its token; or each pass gives others.
    """
    ids = torch.arange(1, 5, device=lm.device)[None] % lm.head.weight.shape[0]
    changed = _last_changed(lm, ids)
    other = lm.hidden_states(changed[0], torch.ones_like(ids))
    h, logits = _with_logits(lm, ids)
    _prove_head(lm, h, logits)
    for again in changed[1:]:
        if _gap(other[:, -1:], h[:, -1:]) > _tolerance(lm):
            break
        other = lm.hidden_states(again, torch.ones_like(ids))
    else:
        raise ModelError(
            f"{type(lm.model).__name__} gives the same hidden state for every token: its weights are damaged."
        )
    _prove_causality(lm, ids, h, other)


def _last_changed(lm: LM, ids: Tensor) -> list[Tensor]:
    """The ids with other tokens at the end, since tokens that were never trained may all have the same embedding."""
    rows = lm.head.weight.shape[0]
    others = [row for row in (rows // 2, rows // 3, rows - 1, 0) if row != int(ids[0, -1])]
    return [torch.cat([ids[:, :-1], torch.full_like(ids[:, :1], row)], 1) for row in others]


def _with_logits(lm: LM, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states that the head is given, and the model's own logits, in one forward pass."""
    given: list[Tensor] = []
    head = lm.head
    with unsteered(lm.model), head.module.register_forward_pre_hook(lambda _, args: given.append(args[0])):
        logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return given[0].to(head.device), logits.to(head.device)


def _prove_head(lm: LM, h: Tensor, logits: Tensor) -> None:
    name = type(lm.model).__name__
    ours = lm.head.logits(h)
    theirs = logits.to(ours.dtype)
    if not theirs.isfinite().all():
        raise ModelError(
            f"{name} computes logits that are not finite in {lm.model.dtype}: its weights may be damaged, or need "
            "another dtype (bfloat16 or float32)."
        )
    gap = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
    if not gap <= _HEAD_TOLERANCE:
        raise ModelError(
            f"{name}: logits computed from its hidden states differ from its own by {gap:.1%} of their size; it does "
            "something to its logits that lmsteer does not know."
        )


def _prove_causality(lm: LM, ids: Tensor, h: Tensor, other: Tensor) -> None:
    """Refuse a model in which another last token moves the hidden states of those before it."""
    if (gap := _gap(other[:, :-1], h[:, :-1])) <= _tolerance(lm):
        return
    name = type(lm.model).__name__
    if (noise := _gap(lm.hidden_states(ids, torch.ones_like(ids)), h)) > _tolerance(lm):
        raise ModelError(
            f"{name} gives other hidden states each time that it reads the same text (they differ by {noise:.1%} of "
            "their size): its forward pass is random, and cannot be steered reliably."
        )
    raise ModelError(
        f"{name} is no causal language model: a later token moves its earlier hidden states by {gap:.1%} of their "
        "size. lmsteer steers models that read a text from left to right; masked, diffusion, prefix and embedding "
        "models do not."
    )


def _gap(a: Tensor, b: Tensor) -> float:
    """The size of a difference, as a share of the size of ``b``."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-30))


def _tolerance(lm: LM) -> float:
    if getattr(lm.model, "is_quantized", False):
        return _QUANTISED_TOLERANCE
    return _CAUSAL_TOLERANCE.get(lm.head.weight.dtype, max(_CAUSAL_TOLERANCE.values()))
