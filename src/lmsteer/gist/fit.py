"""fit: instruction data -> a gist adapter, by transformers' ``Trainer`` (and so by accelerate on several devices).

The model is frozen. Embeddings of gist tokens and a LoRA are trained under a gist mask to make the outputs likely.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from lmsteer.data.instructions import Instruction
from lmsteer.errors import DataError
from lmsteer.gist.adapter import GistAdapter, save_adapter
from lmsteer.gist.config import GistConfig
from lmsteer.gist.examples import Example, encode_examples, examples_digest
from lmsteer.gist.forward import output_loss
from lmsteer.gist.lookup import GistCard, check_fit_folders, gist_run
from lmsteer.gist.model import GistModel
from lmsteer.gist.probe import check_maskable
from lmsteer.gist.training import last_checkpoint, last_whole_checkpoint, train
from lmsteer.model.lm import LM
from lmsteer.util.distributed import Processes
from lmsteer.util.files import exclusive
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.provenance import provenance_of
from lmsteer.util.run import Run, resumable


def fit_gist(
    lm: LM,
    instructions: Sequence[Instruction],
    out: str | Path,
    *,
    config: GistConfig | None = None,
    held_out: Sequence[Instruction] = (),
    resume: bool = False,
    progress: Progress = no_progress,
) -> GistAdapter:
    """Fit a gist adapter and save it. Under ``accelerate launch`` each process takes its share of every step.

    Args:
        lm: the model; it stays as it is.
        instructions: training data.
        out: folder of the adapter; ``out.partial`` keeps checkpoints until the end.
        config: how it is fitted.
        held_out: instructions whose loss is evaluated during the fit, and kept on the card.
        resume: resume from the last checkpoint of a fit of the same model, settings and instructions, if there is one.
        progress: where progress is reported.

    Raises:
        DataError: fewer than two instructions, none that fits into the context, a folder that holds something else, a
            checkpoint of another fit, another process that fits the same adapter, or a fit that diverged.
        ModelError: a model that does not honour gist masks.
        InterruptedWorkError: the user stopped it; its last checkpoint is kept.
    """
    config, processes = config or GistConfig(), Processes.here()
    folder = Path(out).absolute()
    check_fit_folders(folder, config, resume or not processes.is_main_process)
    check_maskable(lm)
    if len(instructions) < 2:
        raise DataError(f"a fit needs two instructions or more, not {len(instructions)}.")
    examples, unseen = (encode_examples(lm, rows, config.tokens) for rows in (instructions, held_out))
    if not examples or (held_out and not unseen):
        raise DataError("no instruction fits into the context of the model.")
    counts = {"examples": len(examples), "left_out": len(instructions) - len(examples)}
    counts |= {"held_out": len(unseen), "held_out_left_out": len(held_out) - len(unseen)}
    card = GistCard(**provenance_of(lm), tokens=config.tokens, data=counts, fit=config.to_json())
    model = GistModel(lm, config)
    run = _run(lm, folder, config, examples)
    with exclusive(folder) if processes.is_main_process else nullcontext():
        with processes.main_process_first():
            checkpoint = last_checkpoint(run, resume or not processes.is_main_process)
        with resumable(lambda: _kept(run.folder)):
            curve = train(model, examples, unseen, run.folder, checkpoint, progress)
            adapter = model.adapter(card)
            if unseen:
                metrics = {**_losses(lm, adapter, model, unseen), "curve": curve}
                adapter = replace(adapter, card=replace(card, held_out=metrics))
            if processes.is_main_process:
                save_adapter(adapter, folder)
        if processes.is_main_process:
            shutil.rmtree(run.folder, ignore_errors=True)
    processes.wait_for_everyone()
    return adapter


def _kept(folder: Path) -> str:
    if last_whole_checkpoint(folder) is None:
        return "Nothing is kept: run the same command again, with --resume."
    return f"A checkpoint is kept in {folder}. Run the same command with --resume to continue."


def _run(lm: LM, folder: Path, config: GistConfig, examples: Sequence[Example]) -> Run:
    """The resumable run of a fit: what must be the same for its checkpoints to be used."""
    record = {**config.to_json(), **provenance_of(lm), "examples": examples_digest(examples)}
    return gist_run(folder, record)


def _losses(lm: LM, adapter: GistAdapter, model: GistModel, examples: Sequence[Example]) -> dict[str, float]:
    """Losses of held-out examples under the adapter as it is saved."""
    with adapter.installed(lm):
        return {each.value: output_loss(lm, adapter.ids(lm), examples, each) for each in model.conditions}
