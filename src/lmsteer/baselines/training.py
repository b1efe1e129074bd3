"""Training of baselines by AdamW: each text is made likely at the strength that is its label. The model is frozen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from lmsteer.baselines.baseline import Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.batching import length_buckets, pad
from lmsteer.model.length_grouped import LengthGroupedSampler
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import cut, encode_texts
from lmsteer.reading.encoded_text import count_predicted, own_tokens
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress

# Maximum number of tokens of a text, its prompt not counted; longer texts are cut, since a few would use up the budget.
_MAX_TOKENS = 128
# How often in a training its held-out texts are measured.
_MEASURED = 10


class TrainingRecord(TypedDict):
    """How a baseline was trained, for its card.

    Attributes:
        steps: number of steps that were taken.
        seconds: time of the training.
        learning_rate: learning rate of the first step.
        loss: mean loss of the last tenth of the steps, in nats per token.
        batch_size: number of texts per step.
        seed: seed of the initial parameters and of the order of texts.
        best_step: with held-out texts, the step after which they were likeliest; its parameters were kept.
        held_out_loss: their mean loss then, in nats per token.
        tried: the learning rates that were tried, and the held-out loss of each; None if it diverged.
    """

    steps: int
    seconds: float
    learning_rate: float
    loss: float
    batch_size: int
    seed: int
    best_step: NotRequired[int]
    held_out_loss: NotRequired[float]
    tried: NotRequired[dict[str, float | None]]


class DivergedError(DataError):
    """A training whose parameters or losses are no finite numbers."""


def train(
    lm: LM,
    trainer: Trainer,
    texts: Sequence[LabelledText],
    budget: TrainingBudget,
    progress: Progress = no_progress,
    *,
    held_out: Sequence[LabelledText] = (),
) -> TrainingRecord:
    """Train a baseline within a budget. The learning rate falls linearly to zero at its end.

    Args:
        lm: the model.
        trainer: the parameters.
        texts: texts with labels in [-1, 1].
        budget: the limits of the training.
        progress: reports the steps.
        held_out: other texts, which choose the number of steps: the parameters that they are likeliest under stay.

    Returns:
        How it was trained, for the card.

    Raises:
        DataError: no text has two tokens, or the method leaves no room for two; or the training diverged.
        KeyboardInterrupt: the user pressed Ctrl-C; it is raised between two steps.
        ModelError: the weights of the model are split over processes.
    """
    lm.check_in_one_process("the training of a baseline")
    ids, labels = _usable(lm, trainer, texts)
    watch = _HeldOut(lm, trainer, held_out) if held_out else None
    reading = 0.0
    optimizer = torch.optim.AdamW(trainer.trainable(), trainer.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    started = time.perf_counter()
    with deferred_sigint() as check, progress("training", budget.steps, 0) as step:
        for batch in _batches([len(own) for own in ids], budget):
            of_time = (time.perf_counter() - started - reading) / budget.seconds if budget.seconds else 0.0
            passed = max(len(losses) / budget.steps, of_time)
            if watch and losses:
                reading += watch.measure(len(losses), passed)
            if passed >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = trainer.learning_rate * (1 - passed)
            loss = _loss(lm, trainer, [ids[i] for i in batch], [labels[i] for i in batch])
            losses.append(_stepped(optimizer, loss))
            step(1, f"loss {losses[-1]:.3f}")
            check()
    if not all(torch.isfinite(tensor).all() for tensor in trainer.trainable()):
        raise DivergedError("the training diverged: its parameters are not finite numbers.")
    last = losses[-max(1, len(losses) // 10) :]
    record: TrainingRecord = {
        "steps": len(losses),
        "seconds": time.perf_counter() - started - reading,
        "learning_rate": trainer.learning_rate,
        "loss": sum(last) / len(last),
        "batch_size": budget.batch_size,
        "seed": budget.seed,
    }
    if watch:
        watch.measure(len(losses), 1.0)
        record["best_step"], record["held_out_loss"] = watch.restore()
    return record


def _stepped(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """Take a step along the gradient of a loss, and return the loss."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


class _HeldOut:
    """Texts that no step sees, and the parameters that they have been likeliest under so far."""

    def __init__(self, lm: LM, trainer: Trainer, texts: Sequence[LabelledText]) -> None:
        self._lm, self._trainer = lm, trainer
        self._ids, self._labels = _usable(lm, trainer, texts)
        self._best: tuple[float, int, list[Tensor]] = (math.inf, 0, [])
        self._steps, self._due = 0, 1 / _MEASURED

    @torch.no_grad()
    def measure(self, steps: int, passed: float) -> float:
        """Measure the parameters after some steps, if it is time; the best so far are kept, on the CPU.

        Args:
            steps: the number of steps.
            passed: the share of the budget that is used up.

        Returns:
            The seconds that it took.
        """
        if steps == self._steps or passed < self._due:
            return 0.0
        self._steps, started = steps, time.perf_counter()
        while self._due <= passed < 1:
            self._due += 1 / _MEASURED
        total, count = 0.0, 0
        for batch in length_buckets(self._ids):
            ids = [self._ids[i] for i in batch]
            tokens = sum(map(count_predicted, ids))
            total += float(_loss(self._lm, self._trainer, ids, [self._labels[i] for i in batch])) * tokens
            count += tokens
        if total / count < self._best[0]:
            kept = [tensor.detach().cpu().clone() for tensor in self._trainer.trainable()]
            self._best = total / count, steps, kept
        return time.perf_counter() - started

    @torch.no_grad()
    def restore(self) -> tuple[int, float]:
        """Put the best parameters back; after how many steps they were measured, and the loss.

        Raises:
            DivergedError: the loss was never a finite number.
        """
        loss, steps, best = self._best
        if not best:
            raise DivergedError("the training diverged: the loss of held-out texts is not a finite number.")
        for tensor, value in zip(self._trainer.trainable(), best, strict=True):
            tensor.copy_(value)
        return steps, loss


def _usable(lm: LM, trainer: Trainer, texts: Sequence[LabelledText]) -> tuple[list[Sequence[int]], list[float]]:
    """The ids and labels of the texts that have a token to learn to predict, cut to what the method leaves room for.

    Raises:
        DataError: there are none.
    """
    encoded = encode_texts(lm, texts, end=False)
    room = lm.max_length - trainer.context
    if room < 2:
        raise DataError(
            f"a method of {trainer.context} tokens leaves no room for texts: the model's context is {lm.max_length}."
        )
    ids = [cut(lm, row, min(row.begin + _MAX_TOKENS, room)) for row in encoded]
    usable = [i for i, row in enumerate(ids) if count_predicted(row)]
    if not usable:
        raise DataError("no text has two tokens, so there is no token to learn to predict.")
    return [ids[i] for i in usable], [texts[i].label for i in usable]


def _batches(lengths: Sequence[int], budget: TrainingBudget) -> Iterator[list[int]]:
    """Batches of indices of texts of similar length, epoch after epoch."""
    sampler, done = LengthGroupedSampler(lengths, budget.batch_size, budget.seed), 0
    for epoch in range(budget.steps):
        sampler.set_epoch(epoch)
        order = list(sampler)
        for first in range(0, len(order), budget.batch_size):
            if done == budget.steps:
                return
            yield order[first : first + budget.batch_size]
            done += 1


def _loss(lm: LM, trainer: Trainer, ids: Sequence[Sequence[int]], labels: Sequence[float]) -> Tensor:
    """Mean negative log-likelihood per token, of all tokens of the texts but the first of each without a prompt."""
    padded, mask = pad(ids, lm.pad_id, lm.device)
    logits = trainer.logits(padded, mask, torch.tensor(labels, device=lm.device))[:, :-1]
    counted = mask[:, 1:].bool()
    counted[counted.clone()] = own_tokens(ids).to(counted.device)
    return torch.nn.functional.cross_entropy(logits[counted].float(), padded[:, 1:][counted])
