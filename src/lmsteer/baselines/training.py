"""Training of rivals: texts, each at the strength that is its label, made likely by AdamW; the model is frozen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lmsteer.baselines.baseline import Trainer
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.batching import pad
from lmsteer.model.length_grouped import LengthGroupedSampler
from lmsteer.model.lm import LM
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress

# Longer texts are cut: they would take most of a budget.
_LONGEST = 128


@dataclass(frozen=True)
class TrainingBudget:
    """How long a rival is trained.

    Attributes:
        steps: at most.
        seconds: at most, if that is to be watched; where it cuts steps off, a rerun may come out otherwise.
        batch: texts a step.
        seed: of what it begins with and of the order of texts.

    Raises:
        DataError: one out of range.
    """

    steps: int = 200
    seconds: float | None = None
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            min(self.steps, self.batch) < 1
            or (self.seconds is not None and not self.seconds > 0)
            or not 0 <= self.seed < 1 << 32
        ):
            raise DataError(f"steps, batch and seconds must be more than nothing, not {asdict(self)}.")


def train(
    lm: LM, trained: Trainer, texts: Sequence[LabelledText], budget: TrainingBudget, progress: Progress = no_progress
) -> dict[str, Any]:
    """Train a rival within a budget, at a rate that falls to zero by its end.

    Returns:
        What to tell of it: steps, seconds, rate, and the mean loss of the last tenth of the steps, in nats a token.

    Raises:
        DataError: no text of two tokens, or a training that diverged.
        KeyboardInterrupt: the user stopped it, between two steps.
    """
    ids = [row[: min(_LONGEST, lm.max_length)] for row in lm.encode([text.text for text in texts])]
    usable = [i for i, row in enumerate(ids) if len(row) > 1]
    if not usable:
        raise DataError("no text has two tokens, of which the second could be made likely.")
    optimizer = torch.optim.AdamW(trained.trainable(), trained.rate, weight_decay=0.0)
    losses: list[float] = []
    started = time.perf_counter()
    with deferred_sigint() as check, progress("training", budget.steps, 0) as step:
        for batch in _batches([len(ids[i]) for i in usable], budget):
            of_time = (time.perf_counter() - started) / budget.seconds if budget.seconds else 0.0
            passed = max(len(losses) / budget.steps, of_time)
            if passed >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = trained.rate * (1 - passed)
            rows = [usable[i] for i in batch]
            loss = _loss(lm, trained, [ids[i] for i in rows], [texts[i].label for i in rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            step(1, f"loss {losses[-1]:.3f}")
            check()
    if not all(torch.isfinite(tensor).all() for tensor in trained.trainable()):
        raise DataError("the training diverged: its parameters are no finite numbers any more.")
    last = losses[-max(1, len(losses) // 10) :]
    seconds = time.perf_counter() - started
    told = {"steps": len(losses), "seconds": seconds, "rate": trained.rate, "loss": sum(last) / len(last)}
    return {**told, "batch": budget.batch, "seed": budget.seed}


def _batches(lengths: Sequence[int], budget: TrainingBudget) -> Iterator[list[int]]:
    """Indices of texts of like length, epoch after epoch."""
    sampler, done = LengthGroupedSampler(lengths, budget.batch, budget.seed), 0
    for epoch in range(budget.steps):
        sampler.set_epoch(epoch)
        order = list(sampler)
        for first in range(0, len(order), budget.batch):
            if done == budget.steps:
                return
            yield order[first : first + budget.batch]
            done += 1


def _loss(lm: LM, trained: Trainer, ids: Sequence[Sequence[int]], labels: Sequence[float]) -> Tensor:
    padded, mask = pad(ids, lm.pad_id, lm.device)
    logits = trained.logits(padded, mask, torch.tensor(labels, device=lm.device))[:, :-1]
    counted = mask[:, 1:].bool()
    return torch.nn.functional.cross_entropy(logits[counted].float(), padded[:, 1:][counted])
