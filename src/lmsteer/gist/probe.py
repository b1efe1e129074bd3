"""What a model makes of gist masks, of positions and of caches: tried on a few tokens, not looked up in a list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lmsteer.errors import ModelError
from lmsteer.gist.embedding import embedded, gist_ids
from lmsteer.gist.forward import masked_states
from lmsteer.gist.layout import Layout, Section
from lmsteer.gist.masks import GistCondition
from lmsteer.model.kv_cache import prefill, slice_kv, stack_kv
from lmsteer.model.lm import LM
from lmsteer.util.compat import CACHE

# Kinds of attention that add or apply whatever mask they are given.
_MASKABLE = ("sdpa", "eager")
# Any ids will do.
_PROMPT, _OTHER, _REST = (1, 2, 3), (4, 5, 6), (8, 9)
# Positions that what follows is moved by.
_SHIFT = 16
# States that differ by more than this share of their size are different: float32 rounds to 1e-6, and half precision to
# 1e-2 after some layers.
_EXACT, _ROUGH = 1e-4, 1e-1
# Positions moved by at most, and what sines of such angles round to.
_FURTHEST, _FAR = 1 << 14, 1e-2
# Positions by which a model does not see distances alone.
_UNEVEN = ("dynamic", "longrope", "scaling_beta")
# What models raise that are given what they do not know.
_ERRORS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)
# Models that have passed, and whether they see nothing of positions but distances.
_PROVEN = WeakKeyDictionary[nn.Module, bool]()


def check_maskable(lm: LM) -> None:
    """Refuse a model that does not honour gist masks, does not heed positions, or has no past that can be cut.

    Raises:
        ModelError: it is such a model.
    """
    _check_names(lm)
    if lm.model in _PROVEN:
        return
    kind = type(lm.model).__name__
    own: Any = lm.model.get_input_embeddings()
    try:
        with torch.no_grad(), embedded(lm, own(torch.tensor([7], device=lm.device))):
            problem = _problem(lm)
            is_even = problem is None and _has_distances_only(lm)
    except _ERRORS as error:
        raise ModelError(f"{kind} cannot be run under gist masks: {type(error).__name__}: {error}") from error
    if problem:
        raise ModelError(f"{kind} {problem}: no gist of a prompt can be had from it.")
    _PROVEN[lm.model] = is_even


def sees_distances_only(lm: LM) -> bool:
    """Whether tokens may be told any positions, negative ones too, as long as their distances stay (rotary positions).

    Raises:
        ModelError: as of ``check_maskable``.
    """
    check_maskable(lm)
    return _PROVEN[lm.model]


def _check_names(lm: LM) -> None:
    """What a few tokens would not show, or what can be said more plainly."""
    kind, config = type(lm.model).__name__, lm.model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if lm.is_recurrent:
        raise ModelError(f"{kind} keeps a state in place of keys and values: no gist of a prompt can be cut from it.")
    if attention not in _MASKABLE:
        raise ModelError(
            f"the attention {attention!r} of {lm.name} ignores gist masks: load it with attn_implementation='sdpa'."
        )
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelError(f"{kind} sees its past in chunks counted from the start, which a gist would shift.")
    if not lm.takes_positions:
        raise ModelError(f"{kind} cannot be told positions, which a gist keeps: it reads them off its mask.")


@torch.inference_mode()
def _problem(lm: LM) -> str | None:
    layout, other = _layout(lm, _PROMPT), _layout(lm, _OTHER)
    rest = layout.sections == Section.REST
    blind = masked_states(lm, layout, GistCondition.NEGATIVE)
    # The shapes are the same, and so is the rounding in any precision.
    if _differ(blind[rest], masked_states(lm, other, GistCondition.NEGATIVE)[rest], _EXACT):
        return "lets tokens see what its mask hides"
    elsewhere = replace(layout, positions=layout.positions + _SHIFT * rest)
    if torch.equal(blind[rest], masked_states(lm, elsewhere, GistCondition.NEGATIVE)[rest]):
        return "does not heed the positions that it is told"
    squeezed = Layout.of([_PROMPT], gist_ids(lm, 1, 1), [[]], lm.pad_id, lm.device)
    try:
        kept = slice_kv(prefill(lm, squeezed.ids, squeezed.mask, squeezed.positions), 0, 1)
    except ModelError as error:
        return f"cannot be asked for what it keeps of a text ({error})"
    cache, room = stack_kv(lm, [kept])
    after = lm.before_head(
        input_ids=layout.ids[rest][None],
        attention_mask=torch.cat([room, layout.mask[rest][None]], 1),
        position_ids=layout.positions[rest][None],
        use_cache=True,
        **{CACHE: cache},
    )
    if _differ(masked_states(lm, layout)[rest], after[0], _rounding(lm)):
        return "sees something else in a cache than in the tokens that it is of"
    return None


@torch.inference_mode()
def _has_distances_only(lm: LM) -> bool:
    rope = str(getattr(lm.model.config.get_text_config(), "rope_parameters", None))
    # Some change with the length of a text, or in steps further apart than any shift that can be tried here; and a
    # table has no rows before its first, which not every device says.
    if any(kind in rope for kind in _UNEVEN) or any(len(b) >= lm.max_length for b in lm.model.buffers() if b.dim() > 1):
        return False
    layout = _layout(lm, _PROMPT)
    plain = masked_states(lm, layout, GistCondition.POSITIVE)
    try:
        for shift, share in ((_SHIFT, _EXACT), (min(lm.max_length // 2, _FURTHEST), _FAR), (-len(_PROMPT), _EXACT)):
            moved = replace(layout, positions=layout.positions + shift)
            if _differ(plain, masked_states(lm, moved, GistCondition.POSITIVE), max(share, _rounding(lm))):
                return False
    except _ERRORS:
        return False
    return True


def _layout(lm: LM, prompt: tuple[int, ...]) -> Layout:
    return Layout.of([prompt], gist_ids(lm, 1, 1), [_REST], lm.pad_id, lm.device)


def _rounding(lm: LM) -> float:
    return _EXACT if lm.model.dtype == torch.float32 else _ROUGH


def _differ(one: Tensor, other: Tensor, share: float) -> bool:
    """Whether states differ by more than a share of their size; what is no number differs from everything."""
    return not bool((one - other).abs().max() <= share * one.abs().max())
