"""Training of a ``GistModel`` by transformers' ``Trainer``: evaluated, interruptible between steps, resumable."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from lmsteer.gist.config import GistConfig
from lmsteer.gist.examples import Example
from lmsteer.gist.model import GistModel
from lmsteer.model.length_grouped import LengthGroupedSampler
from lmsteer.util.compat import use_one_gpu
from lmsteer.util.files import writing
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, Step
from lmsteer.util.random_state import forked_random_state
from lmsteer.util.records import parse_json
from lmsteer.util.run import Run


def train(
    model: GistModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    folder: Path,
    checkpoint: str | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a gist model; the frozen model and the caller's random states stay as they are.

    Args:
        model: what is trained.
        examples: training examples.
        held_out: examples whose loss is evaluated every ``eval_steps``.
        folder: folder of the checkpoints.
        checkpoint: the checkpoint to resume from.
        progress: where progress is reported.

    Returns:
        The losses of the held-out examples, by step.

    Raises:
        KeyboardInterrupt: the user stopped it; a checkpoint of the last step is kept.
    """
    config, device = model.gist_config, model.embeddings.device
    start = int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else 0
    reporting = progress("fitting gist tokens", config.steps, start)
    with deferred_sigint() as check, forked_random_states(model), reporting as step:
        callback = _Callback(model, held_out, step, check)
        trainer = _Trainer(
            model=model,
            args=_arguments(folder, config, device.type == "cpu"),
            train_dataset=_Examples(examples),
            data_collator=lambda batch: {"examples": batch},
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        with writing(folder, "a checkpoint"):
            trainer.train(resume_from_checkpoint=checkpoint)
    if callback.is_stopped:
        raise KeyboardInterrupt
    return [line for line in trainer.state.log_history if config.condition.value in line]


def last_checkpoint(run: Run, resume: bool) -> str | None:
    """The last checkpoint of a run; None where a new run starts, in an empty folder.

    Args:
        run: the run that keeps its checkpoints in ``run.folder``.
        resume: whether an earlier run is resumed; else its checkpoints are removed.

    Raises:
        DataError: the folder holds something else, is damaged, or keeps a run of another configuration.
    """
    kept = run.kept()
    if kept is not None and resume:
        run.check(kept)
        return last_whole_checkpoint(run.folder)
    if kept is not None:
        shutil.rmtree(run.folder)
    run.open()
    return None


def last_whole_checkpoint(folder: Path) -> str | None:
    """The last checkpoint in a folder; one that was cut short, as by a full disk, is removed."""
    while (last := get_last_checkpoint(str(folder))) is not None:
        try:
            parse_json((Path(last) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))  # which is written last
        except (OSError, ValueError):
            shutil.rmtree(last)
        else:
            return last
    return None


@contextmanager
def forked_random_states(model: GistModel) -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch after a ``with`` block: ``Trainer`` seeds them all."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with forked_random_state(parameter.device for parameter in model.parameters()):
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
    """Draws batches of similar length, so that little time is lost to padding."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of the training examples, for all processes of the launch."""
        dataset, batch_size = self.train_dataset, self.args.train_batch_size
        assert isinstance(dataset, _Examples)
        sampler = LengthGroupedSampler([len(dataset[i]) for i in range(len(dataset))], batch_size, self.args.seed)
        loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class _Callback(TrainerCallback):
    """Reports progress, evaluates the held-out examples, and stops between two steps on Ctrl-C."""

    def __init__(self, model: GistModel, held_out: Sequence[Example], step: Step, check: Callable[[], None]) -> None:
        self._model, self._held_out, self._step, self._check = model, held_out, step, check
        self._message = ""
        self.is_stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Evaluate every ``eval_steps`` steps; ask for a checkpoint and an end after Ctrl-C."""
        if self._held_out and state.global_step % self._model.gist_config.eval_steps == 0:
            losses = self._model.losses(self._held_out)
            state.log_history.append({"step": state.global_step, **losses})  # which checkpoints keep
            self._message = "held out: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        self._step(1, self._message)
        try:
            self._check()
        except KeyboardInterrupt:
            self.is_stopped = True
            control.should_save = control.should_training_stop = True
        return control


def _arguments(folder: Path, config: GistConfig, on_cpu: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, config.steps // 20),
        weight_decay=0.0,
        logging_strategy="no",
        save_strategy="steps",
        save_steps=config.eval_steps,
        save_total_limit=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=on_cpu,
    )
    use_one_gpu(arguments)  # several GPUs take a process each (accelerate launch)
    return arguments
