"""fit: instruction data -> a gist adapter, through transformers' ``Trainer`` (and so accelerate, over several devices).

The model is frozen; embeddings of gist tokens and a LoRA are trained, under a gist mask, to make the outputs likely.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError
from lmsteer.gist.adapter import GistAdapter, GistCard, check_target, save_adapter
from lmsteer.gist.checkpoints import digest_of, last_checkpoint
from lmsteer.gist.examples import Example, encode_examples
from lmsteer.gist.probe import check_maskable
from lmsteer.gist.student import GistConfig, GistModel
from lmsteer.gist.training import train
from lmsteer.model.lm import LM
from lmsteer.util.distributed import Processes
from lmsteer.util.files import exclusive
from lmsteer.util.progress import Progress, no_progress


def fit_gist(
    lm: LM,
    instructions: Sequence[Instruction],
    out: str | Path,
    *,
    settings: GistConfig | None = None,
    held_out: Sequence[Instruction] = (),
    every: int = 100,
    resume: bool = False,
    progress: Progress = no_progress,
) -> GistAdapter:
    """Fit a gist adapter, and save it. Under ``accelerate launch`` each process takes its share of every step.

    Args:
        lm: the model; it stays as it is.
        instructions: to learn from.
        out: folder of the adapter; ``out.partial`` keeps checkpoints until the end.
        settings: how.
        held_out: instructions whose loss is told as the fit goes on, and kept on the card.
        every: steps between two looks at them, and between two checkpoints.
        resume: go on from the last checkpoint of a fit of the same model, settings and instructions, if there is one.
        progress: what to tell of the work.

    Raises:
        DataError: less than two instructions, none that fits into the context, a folder that holds something else, a
            checkpoint of another fit, another process that fits the same adapter, or a fit that diverged.
        ModelError: a model that cannot honour gist masks.
        InterruptedWorkError: the user stopped it; its last checkpoint is kept.
    """
    settings, processes = settings or GistConfig(), Processes.here()
    folder = Path(out).absolute()
    check_target(folder)
    check_maskable(lm)
    examples, unseen = (encode_examples(lm, given, settings.tokens) for given in (instructions, held_out))
    if not examples or (held_out and not unseen):
        raise DataError("no instruction fits into the context of the model.")
    if len(instructions) < 2 or every < 1:
        raise DataError(f"cannot fit on {len(instructions)} instructions, or look at them every {every} steps.")
    base = (lm.name, lm.fingerprint, lm.tokenizer_fingerprint)
    student = GistModel(lm, settings)
    partial = folder.with_name(f"{folder.name}.partial")
    record = {"settings": settings.to_json(), "base": list(base), "examples": digest_of(examples)}
    told = {"examples": len(examples), "left_out": len(instructions) - len(examples)}
    told |= {"held_out": len(unseen), "held_out_left_out": len(held_out) - len(unseen)}
    card = GistCard(*base, settings.tokens, data=told, fit=settings.to_json())
    with exclusive(folder) if processes.is_first else nullcontext():
        with processes.first_goes_first():
            last = last_checkpoint(partial, record, resume or not processes.is_first)
        curve = train(student, examples, unseen, every, partial, last, progress)
        adapter = _looked_at(student.adapter(card), lm, student, unseen, curve)
        if processes.is_first:
            save_adapter(adapter, folder)
            shutil.rmtree(partial, ignore_errors=True)
    processes.wait()
    return adapter


def _looked_at(
    adapter: GistAdapter, lm: LM, student: GistModel, unseen: Sequence[Example], curve: Sequence[dict[str, Any]]
) -> GistAdapter:
    """With what held-out instructions lose under it on its card, if there are any."""
    if not unseen:
        return adapter
    with adapter.installed(lm):
        figures = {**student.losses(unseen), "curve": curve}
    return replace(adapter, card=replace(adapter.card, held_out=figures))
