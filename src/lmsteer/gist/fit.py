"""fit: instruction data -> a gist adapter, through transformers' ``Trainer`` (and so accelerate, over several devices).

The model is frozen; embeddings of gist tokens and a LoRA are trained, under a gist mask, to make the outputs likely.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.gist.adapter import GistAdapter, GistCard, check_target, save_adapter
from lmsteer.gist.checkpoints import digest_of, last_checkpoint
from lmsteer.gist.embedding import embedded, gist_ids, mean_embedding
from lmsteer.gist.examples import Example, Instruction, encode_examples
from lmsteer.gist.forward import output_likelihood, output_loss
from lmsteer.gist.like_lengths import LikeLengths
from lmsteer.gist.lora import LoRA
from lmsteer.gist.masks import Condition
from lmsteer.gist.probe import check_maskable
from lmsteer.interrupts import interruptible_steps
from lmsteer.lm import LM
from lmsteer.progress import Progress, Step, no_progress


@dataclass(frozen=True)
class Settings:
    """How a gist adapter is fitted.

    Attributes:
        tokens: G.
        shared: whether all gist tokens have one embedding.
        rank: of the LoRA.
        condition: of the mask; the controls are fitted like the thing itself.
        steps: of AdamW.
        batch: examples a step and process.
        learning_rate: the highest, which a cosine leads down from.
        seed: of the LoRA and of the order of examples.

    Raises:
        DataError: one out of range.
    """

    tokens: int = 1
    shared: bool = False
    rank: int = 8
    condition: Condition = Condition.GIST
    steps: int = 500
    batch: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("tokens", "rank", "steps", "batch"):
            if getattr(self, what) < 1:
                raise DataError(f"{what} must be one or more, not {getattr(self, what)}.")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.seed < 1 << 32:
            raise DataError(f"the learning rate cannot be {self.learning_rate}, or the seed {self.seed}.")

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "condition": self.condition.value}


class Student(nn.Module):
    """What is trained; the frozen model is no part of it, so that checkpoints are small."""

    def __init__(self, lm: LM, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self._lm = lm
        count = 1 if settings.shared else settings.tokens
        self.embeddings = nn.Parameter(mean_embedding(lm)[None].repeat(count, 1).to(lm.device))
        self.lora = LoRA(lm, settings.rank, settings.seed)
        self.gist = gist_ids(lm, settings.tokens, count)

    def forward(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The mean loss of the output's tokens, in nats, under the condition that is trained."""
        return {"loss": -output_likelihood(self._lm, self.gist, examples, self.settings.condition).mean()}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the frozen model work with what is trained, within a ``with`` block."""
        with self.lora.attached(), embedded(self._lm, self.embeddings):
            yield

    def losses(self, examples: Sequence[Example]) -> dict[str, float]:
        """Mean loss of all tokens of the outputs, in nats: under each condition, or under a control's own."""
        own = self.settings.condition
        looked_at = list(Condition) if own is Condition.GIST else [own]
        return {each.value: output_loss(self._lm, self.gist, examples, each) for each in looked_at}

    def adapter(self, card: GistCard) -> GistAdapter:
        """What has been trained."""
        down, up = self.lora.factors()
        return GistAdapter(self.embeddings.detach().cpu().clone(), down, up, card)


def fit_gist(
    lm: LM,
    instructions: Sequence[Instruction],
    out: str | Path,
    *,
    settings: Settings | None = None,
    held_out: Sequence[Instruction] = (),
    every: int = 100,
    resume: bool = False,
    progress: Progress = no_progress,
) -> GistAdapter:
    """Fit a gist adapter, and save it.

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
            checkpoint of another fit, or a fit that diverged.
        ModelError: a model that cannot honour gist masks.
        InterruptedWorkError: the user stopped it; its last checkpoint is kept.
    """
    settings = settings or Settings()
    folder = Path(out).absolute()
    check_target(folder)
    check_maskable(lm)
    examples, unseen = (encode_examples(lm, given, settings.tokens) for given in (instructions, held_out))
    if not examples or (held_out and not unseen):
        raise DataError("no instruction fits into the context of the model.")
    if len(instructions) < 2 or every < 1:
        raise DataError(f"cannot fit on {len(instructions)} instructions, or look at them every {every} steps.")
    base = (lm.name, lm.fingerprint, lm.tokenizer_fingerprint)
    student = Student(lm, settings)
    partial = folder.with_name(f"{folder.name}.partial")
    record = {"settings": settings.to_json(), "base": list(base), "examples": digest_of(examples)}
    last = last_checkpoint(partial, record, resume)
    with student.installed(), interruptible_steps() as check:
        start = int(Path(last).name.rpartition("-")[2]) if last else 0
        with progress("fitting gist tokens", settings.steps, start) as step:
            watch = _Watch(student, unseen, every, step, check)
            trainer = _Trainer(
                model=student,
                args=_arguments(partial, settings, every, lm.device.type == "cpu"),
                train_dataset=_Examples(examples),
                data_collator=lambda batch: {"examples": batch},
                callbacks=[watch],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=last)
        if watch.stopped_at is not None:
            raise InterruptedWorkError(
                f"stopped after {watch.stopped_at} of {settings.steps} steps, which are kept in {partial}; "
                "the same command with --resume goes on from there."
            )
    curve = [line for line in trainer.state.log_history if settings.condition.value in line]
    told = {"examples": len(examples), "left_out": len(instructions) - len(examples)}
    told |= {"held_out": len(unseen), "held_out_left_out": len(held_out) - len(unseen)}
    adapter = student.adapter(GistCard(*base, settings.tokens, data=told, fit=settings.to_json()))
    if unseen:
        with adapter.installed(lm):
            figures = {**student.losses(unseen), "curve": curve}
        adapter = replace(adapter, card=replace(adapter.card, held_out=figures))
    save_adapter(adapter, folder)
    shutil.rmtree(partial, ignore_errors=True)
    return adapter


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
        sampler = LikeLengths([len(dataset[i]) for i in range(len(dataset))], batch, self.args.seed)
        loader = DataLoader(dataset, batch, sampler=sampler, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class _Watch(TrainerCallback):
    """Tells how far the fit is and how it goes, and stops it between steps when the user asks for that."""

    def __init__(self, student: Student, held_out: Sequence[Example], every: int, step: Step, check: Any) -> None:
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


def _arguments(folder: Path, settings: Settings, every: int, on_cpu: bool) -> TrainingArguments:
    return TrainingArguments(
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
