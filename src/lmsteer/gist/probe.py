"""Probes whether a model honours gist masks, positions and a cut KV cache, by running a few tokens through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.gist.config import GistCondition
from lmsteer.gist.embedding import gist_embeddings, gist_ids
from lmsteer.gist.forward import masked_hidden_states
from lmsteer.gist.layout import Layout, Section
from lmsteer.model.kv_cache import prefill, slice_kv, stack_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE

# Implementations of attention that use whatever mask they are given.
_MASKABLE = ("sdpa", "eager")
# Arbitrary ids.
_PROMPT, _OTHER, _SUFFIX = (1, 2, 3), (4, 5, 6), (8, 9)
# Positions that the suffix is moved by.
_SHIFT = 16
# Hidden states that differ by more than this share of their size are different: float32 rounds to 1e-6, and half
# precision to 1e-2 after some layers.
_EXACT, _ROUGH = 1e-4, 1e-1
# The farthest that positions are moved, and what the sines of such angles round to.
_FURTHEST, _FAR = 1 << 14, 1e-2
# Kinds of rotary positions whose scale changes with the length of the text, or with the position.
_UNEVEN = ("dynamic", "longrope", "scaling_beta")
# What models raise when they are given an argument that they do not support.
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)
# The models that have passed, and whether they are shift-invariant.
_PASSED = WeakKeyDictionary[nn.Module, bool]()


def check_maskable(lm: LM) -> None:
    """Refuse a model that does not honour gist masks or positions, or whose KV cache cannot be cut.

    Raises:
        ModelError: it is such a model.
    """
    lm.check_in_one_process("a gist")
    _check_config(lm)
    if lm.model in _PASSED:
        return
    kind = type(lm.model).__name__
    embedding: Any = lm.model.get_input_embeddings()
    try:
        with torch.no_grad(), gist_embeddings(lm, embedding(torch.tensor([7], device=lm.device))):
            problem = _problem(lm)
            shift_invariant = problem is None and _tolerates_shifts(lm)
    except _ERRORS as error:
        raise ModelError(f"{kind} cannot be run under gist masks: {type(error).__name__}: {error}") from error
    if problem:
        raise ModelError(f"{kind} {problem}: it cannot compress prompts into gists.")
    _PASSED[lm.model] = shift_invariant


def is_shift_invariant(lm: LM) -> bool:
    """Whether only the distances between positions matter (rotary positions), so that all may be shifted at once.

    Raises:
        ModelError: as in ``check_maskable``.
    """
    check_maskable(lm)
    return _PASSED[lm.model]


def _check_config(lm: LM) -> None:
    """Refuse by name what a few tokens would not show, or what can be said more plainly."""
    kind, config = type(lm.model).__name__, lm.model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if lm.is_recurrent:
        raise ModelError(f"{kind} keeps a state in place of keys and values: no gist can be cut from it.")
    if attention not in _MASKABLE:
        raise ModelError(
            f"the attention {attention!r} of {lm.name} ignores gist masks: load it with attn_implementation='sdpa'."
        )
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelError(f"{kind} sees its past in chunks counted from the start, which a gist would shift.")
    if not lm.takes_positions:
        raise ModelError(f"{kind} takes no position_ids, which a gist needs: it computes positions from its mask.")


@torch.inference_mode()
def _problem(lm: LM) -> str | None:
    """What a model does wrong, as the predicate of a sentence; None if nothing."""
    layout, other = _layout(lm, _PROMPT), _layout(lm, _OTHER)
    suffix = layout.sections == Section.SUFFIX
    blind = _suffix_states(lm, layout, GistCondition.NEGATIVE)
    # The shapes are the same, and so is the rounding in any precision.
    if _differ(blind, _suffix_states(lm, other, GistCondition.NEGATIVE), _EXACT):
        return "lets tokens see what its mask hides"
    elsewhere = replace(layout, positions=layout.positions + _SHIFT * suffix)
    if torch.equal(blind, _suffix_states(lm, elsewhere, GistCondition.NEGATIVE)):
        return "ignores the positions that it is given"
    compressed = Layout.of([_PROMPT], gist_ids(lm, 1, 1), [[]], lm.pad_id, lm.device)
    try:
        kept = slice_kv(prefill(lm, compressed.ids, compressed.mask, compressed.positions), 0, 1)
    except ModelError as error:
        return f"has a KV cache that cannot be cut ({error})"
    cache, room = stack_kv(lm, [kept])
    after = lm.before_head(
        input_ids=layout.ids[suffix][None],
        attention_mask=torch.cat([room, layout.mask[suffix][None]], 1),
        position_ids=layout.positions[suffix][None],
        use_cache=True,
        **{CACHE: cache},
    )
    if _differ(_suffix_states(lm, layout, GistCondition.GIST), after[0], _rounding(lm)):
        return "gives other hidden states after a KV cache than after the tokens themselves"
    return None


@torch.inference_mode()
def _tolerates_shifts(lm: LM) -> bool:
    rope = str(getattr(lm.model.config.get_text_config(), "rope_parameters", None))
    # Some scales change with the length of a text, or in steps further apart than any shift that can be tried here.
    # And a table of positions has no rows before its first, which not every device reports.
    if any(kind in rope for kind in _UNEVEN) or any(len(b) >= lm.max_length for b in lm.model.buffers() if b.dim() > 1):
        return False
    layout = _layout(lm, _PROMPT)
    plain = masked_hidden_states(lm, layout, GistCondition.POSITIVE)
    try:
        for shift, share in ((_SHIFT, _EXACT), (min(lm.max_length // 2, _FURTHEST), _FAR), (-len(_PROMPT), _EXACT)):
            moved = replace(layout, positions=layout.positions + shift)
            shifted = masked_hidden_states(lm, moved, GistCondition.POSITIVE)
            if _differ(plain, shifted, max(share, _rounding(lm))):
                return False
    except _ERRORS:
        return False
    return True


def _suffix_states(lm: LM, layout: Layout, condition: GistCondition) -> Tensor:
    states = masked_hidden_states(lm, layout, condition)
    return states[(layout.sections == Section.SUFFIX).to(states.device)]


def _layout(lm: LM, prompt: tuple[int, ...]) -> Layout:
    return Layout.of([prompt], gist_ids(lm, 1, 1), [_SUFFIX], lm.pad_id, lm.device)


def _rounding(lm: LM) -> float:
    return _EXACT if lm.model.dtype == torch.float32 else _ROUGH


def _differ(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether hidden states differ by more than a share of their size; NaN differs from everything."""
    return not bool((one - other).abs().max() <= share * one.abs().max())
