"""Training: transformers' ``Trainer`` over a student, watched, interrupted between steps and gone on with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmsteer.errors import InterruptedWorkError
from lmsteer.gist.examples import Example
from lmsteer.gist.student import GistConfig, GistModel
from lmsteer.model.length_grouped import LengthGroupedSampler
from lmsteer.util.compat import use_one_gpu
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, Step


def train(
    student: GistModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    every: int,
    folder: Path,
    last: str | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a student; nothing of the model it stands beside is changed, nor are the caller's random numbers.

    Args:
        student: what is trained.
        examples: to learn from.
        held_out: examples whose loss is looked at.
        every: steps between two looks, and between two checkpoints.
        folder: of the checkpoints.
        last: checkpoint to go on from.
        progress: what to tell of the work.

    Returns:
        The losses of held-out examples, by step.

    Raises:
        InterruptedWorkError: the user stopped it; its last checkpoint is kept.
    """
    settings, device = student.settings, student.embeddings.device
    start = int(Path(last).name.rpartition("-")[2]) if last else 0
    reporting = progress("fitting gist tokens", settings.steps, start)
    with student.installed(), deferred_sigint() as check, _random_states_kept(), reporting as step:
        watch = _Watch(student, held_out, every, step, check)
        trainer = _Trainer(
            model=student,
            args=_arguments(folder, settings, every, device.type == "cpu"),
            train_dataset=_Examples(examples),
            data_collator=lambda batch: {"examples": batch},
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last)
    if watch.stopped_at is not None:
        raise InterruptedWorkError(
            f"stopped after {watch.stopped_at} of {settings.steps} steps, which are kept in {folder}; "
            "the same command with --resume goes on from there."
        )
    return [line for line in trainer.state.log_history if settings.condition.value in line]


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """``Trainer`` seeds everything there is."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class _Examples(Dataset[Example]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


class _Trainer(Trainer):
    """Draws batches of like length, so that little time goes to padding."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of the examples, for as many processes as there are."""
        dataset, batch = self.train_dataset, self.args.train_batch_size
        assert isinstance(dataset, _Examples)
        sampler = LengthGroupedSampler([len(dataset[i]) for i in range(len(dataset))], batch, self.args.seed)
        loader = DataLoader(dataset, batch, sampler=sampler, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class _Watch(TrainerCallback):
    """Tells how far the fit is and how it goes, and stops it between steps when the user asks for that."""

    def __init__(self, student: GistModel, held_out: Sequence[Example], every: int, step: Step, check: Any) -> None:
        self._student, self._held_out, self._every, self._step, self._check = student, held_out, every, step, check
        self._said = ""
        self.stopped_at: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Look at the held-out loss now and then."""
        if self._held_out and state.global_step % self._every == 0:
            losses = self._student.losses(self._held_out)
            state.log_history.append({"step": state.global_step, **losses})  # which checkpoints keep
            self._said = "held out: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        self._step(1, self._said)
        try:
            self._check()
        except KeyboardInterrupt:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control


def _arguments(folder: Path, settings: GistConfig, every: int, on_cpu: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.steps // 20),
        weight_decay=0.0,
        logging_strategy="no",
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=on_cpu,
    )
    # Several GPUs take a process each (accelerate launch); torch's older way would cut examples up among them.
    use_one_gpu(arguments)
    return arguments
