"""compress: prompts -> gists. A prompt runs through the model once, with gist tokens after it; their cache is kept.

The controls come from the same pass: of the positive one, which hides nothing, the whole cache is kept; for the
negative one the gist tokens stand where they would stand, with nothing before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmsteer.errors import DataError
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.gist import Gist, Origin
from lmsteer.gist.layout import Layout
from lmsteer.gist.masks import GistCondition
from lmsteer.gist.probe import sees_distances_only
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
    """Squeeze prompts into gists.

    Args:
        lm: the adapter's base.
        adapter: gist tokens and LoRA.
        prompts: ids of each.
        condition: what those that come after the gist tokens will see.
        progress: what to tell of the work.

    Raises:
        DataError: an empty prompt, or one that is longer than the context with its gist tokens.
        WrongBaseError: another base.
        ModelError: a model that cannot honour gist masks, or has layers that do not keep what is to be kept.
    """
    gist = adapter.ids(lm)
    for number, prompt in enumerate(prompts, 1):
        if not prompt:
            raise DataError(f"prompt {number} is empty: there is nothing to squeeze.")
        if len(prompt) + len(gist) >= lm.max_length:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; with {len(gist)} gist tokens and something after them it "
                f"is longer than the model's context of {lm.max_length}."
            )
    # Where only distances count, a gist moves to the front and leaves its prompt's part of the context to what follows.
    from_zero = condition is not GistCondition.POSITIVE and sees_distances_only(lm)
    found: dict[int, Gist] = {}
    with adapter.installed(lm), progress("squeezing prompts", len(prompts), 0) as step:
        for batch in length_buckets(prompts):
            given = [[] if condition is GistCondition.NEGATIVE else prompts[i] for i in batch]
            layout = Layout.of(given, gist, [[]] * len(batch), lm.pad_id, lm.device, "left")
            ends = [len(gist) if from_zero else len(prompts[i]) + len(gist) for i in batch]
            starts = [end - len(prompt) - len(gist) for end, prompt in zip(ends, given, strict=True)]
            positions = layout.positions + torch.tensor(starts, device=lm.device)[:, None]
            cache = prefill(lm, layout.ids, layout.mask, positions)
            for row, i in enumerate(batch):
                kept = len(prompts[i]) + len(gist) if condition is GistCondition.POSITIVE else len(gist)
                found[i] = Gist(*slice_kv(cache, row, kept), Origin.of(lm, adapter, len(prompts[i]), ends[row]))
            step(len(batch), "")
    return [found[i] for i in range(len(prompts))]
