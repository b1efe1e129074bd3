"""compress: prompts -> gists. Each prompt runs through the model once, with gist tokens after it.

The keys and values of the gist tokens are kept. The controls come from the same pass: for the positive one, which hides
nothing, those of the prompt are kept, too; for the negative one the gist tokens have nothing before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmsteer.errors import DataError
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.config import GistCondition
from lmsteer.gist.gist import Gist, GistProvenance
from lmsteer.gist.layout import Layout
from lmsteer.gist.probe import is_shift_invariant
from lmsteer.model.batching import length_buckets
from lmsteer.model.kv_cache import prefill, slice_kv
from lmsteer.model.lm import LM
from lmsteer.util.progress import Progress, no_progress


@torch.inference_mode()
def compress(
    lm: LM,
    adapter: GistAdapter,
    prompts: Sequence[Sequence[int]],
    *,
    condition: GistCondition = GistCondition.GIST,
    progress: Progress = no_progress,
) -> list[Gist]:
    """Compress prompts into gists.

    Args:
        lm: the adapter's base.
        adapter: the gist adapter.
        prompts: token ids of each prompt.
        condition: condition of the attention mask for the tokens after the gist.
        progress: where progress is reported.

    Raises:
        DataError: an empty prompt, or one that is longer than the context together with its gist tokens.
        WrongBaseError: another base.
        ModelError: a model that does not honour gist masks, or has layers that do not keep all that is needed.
    """
    gist_ids = adapter.ids(lm)
    _check_lengths(lm, prompts, len(gist_ids))
    # Where only distances between positions matter, a gist moves to the front of the context, and the room of its
    # prompt is free for the tokens after it.
    from_zero = condition is not GistCondition.POSITIVE and is_shift_invariant(lm)
    gists: dict[int, Gist] = {}
    with adapter.installed(lm), progress("compressing prompts", len(prompts), 0) as step:
        for batch in length_buckets(prompts):
            seen = [[] if condition is GistCondition.NEGATIVE else prompts[i] for i in batch]
            layout = Layout.of(seen, gist_ids, [[]] * len(batch), lm.pad_id, lm.device, "left")
            ends = [len(gist_ids) if from_zero else len(prompts[i]) + len(gist_ids) for i in batch]
            starts = [end - len(prompt) - len(gist_ids) for end, prompt in zip(ends, seen, strict=True)]
            positions = layout.positions + torch.tensor(starts, device=lm.device)[:, None]
            cache = prefill(lm, layout.ids, layout.mask, positions)
            for row, i in enumerate(batch):
                kept = len(gist_ids) + (len(prompts[i]) if condition is GistCondition.POSITIVE else 0)
                provenance = GistProvenance.of(lm, adapter, len(prompts[i]), ends[row])
                gists[i] = Gist(*slice_kv(cache, row, kept), provenance)
            step(len(batch), "")
    return [gists[i] for i in range(len(prompts))]


def _check_lengths(lm: LM, prompts: Sequence[Sequence[int]], tokens: int) -> None:
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise DataError(f"prompt {number} is empty: there is nothing to compress.")
        if len(prompt) + tokens >= lm.max_length:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; with {tokens} gist tokens and an input after them it is "
                f"longer than the model's context of {lm.max_length}."
            )
