"""The search for the learning rate and the number of steps of a training, on texts that no training sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from lmsteer.baselines.baseline import Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.training import TrainingRecord, train
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.lm import LM
from lmsteer.reading.splits import is_held_out
from lmsteer.util.progress import Progress, no_progress

# Factors on the learning rate of a method.
RATES = (0.1, 0.3, 1.0, 3.0)
_Made = TypeVar("_Made", bound=Trainer)


def search(
    lm: LM,
    make_trainer: Callable[[], _Made],
    texts: Sequence[LabelledText],
    budget: TrainingBudget,
    progress: Progress = no_progress,
) -> tuple[_Made, TrainingRecord]:
    """Train once at each learning rate; keep the rate and the number of steps that held-out texts are likeliest under.

    Held out are the texts that a fit of a steer holds out, one in eight. They are not learnt from afterwards, either.

    Args:
        lm: the model.
        make_trainer: makes the parameters anew, the same each time.
        texts: texts with labels in [-1, 1].
        budget: the limits of each training.
        progress: reports the steps.

    Raises:
        DataError: too few texts to hold any out, or every training diverged.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    held_out = [text for text in texts if is_held_out(text)]
    others = [text for text in texts if not is_held_out(text)]
    if not held_out or not others:
        raise DataError(f"{len(texts)} texts are too few to hold some out: train without a search, or give more.")
    best: tuple[_Made, TrainingRecord] | None = None
    tried, failure = dict[str, float](), ""
    for factor in RATES:
        trainer = make_trainer()
        trainer.learning_rate *= factor
        try:
            record = train(lm, trainer, others, budget, progress, held_out=held_out)
        except DataError as error:  # at a rate that is too high
            failure = str(error)
            continue
        tried[f"{trainer.learning_rate:.3g}"] = round(record["held_out_loss"], 4)
        if best is None or record["held_out_loss"] < best[1]["held_out_loss"]:
            best = trainer, record
    if best is None:
        raise DataError(failure)
    return best[0], {**best[1], "tried": tried}
