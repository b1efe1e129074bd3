"""The search for the learning rate and the number of steps of a training, on texts that no training sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from lmsteer.baselines.baseline import Trainer
from lmsteer.baselines.budget import TrainingBudget
from lmsteer.baselines.training import DivergedError, TrainingRecord, train
from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.lm import LM
from lmsteer.reading.splits import HELD_OUT_SHARE
from lmsteer.util.progress import Progress, no_progress

# Factors on the learning rate of a method.
RATES = (0.1, 0.3, 1.0, 3.0)
# Texts that are held out at most, or few more: they are read ten times in each training.
_MOST = 128
_Made = TypeVar("_Made", bound=Trainer)


def search(
    lm: LM,
    make_trainer: Callable[[], _Made],
    texts: Sequence[LabelledText],
    budget: TrainingBudget,
    progress: Progress = no_progress,
) -> tuple[_Made, TrainingRecord]:
    """Train once at each learning rate; keep the rate and the step at which held-out texts are likeliest.

    Held out is one text in eight of either end, the first by digest, and some 128 in all at most. What is kept has not
    learnt from them: nothing is trained again on all texts.

    Args:
        lm: the model.
        make_trainer: makes the parameters anew, the same each time.
        texts: texts with labels in [-1, 1].
        budget: the limits of each training.
        progress: reports the steps.

    Raises:
        DataError: an end has a single text, so that none can be held out, or every training diverged.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    others, held_out = _divided(texts)
    best: tuple[_Made, TrainingRecord] | None = None
    tried, failure = dict[str, float | None](), ""
    for factor in RATES:
        trainer = make_trainer()
        trainer.learning_rate *= factor
        rate = f"{trainer.learning_rate:.3g}"
        try:
            record = train(lm, trainer, others, budget, progress, held_out=held_out)
        except DivergedError as error:  # the rate is too high
            tried[rate], failure = None, str(error)
            continue
        tried[rate] = round(record["held_out_loss"], 4)
        if best is None or record["held_out_loss"] < best[1]["held_out_loss"]:
            best = trainer, record
    if best is None:
        raise DivergedError(failure)
    return best[0], {**best[1], "tried": tried}


def _divided(texts: Sequence[LabelledText]) -> tuple[list[LabelledText], list[LabelledText]]:
    """The texts to learn from, and the held-out ones: of either end at least one in both."""
    others, held_out = list[LabelledText](), list[LabelledText]()
    share = min(1 / HELD_OUT_SHARE, _MOST / max(len(texts), 1))
    for side in (1, 0, -1):
        own = sorted((text for text in texts if (text.label > 0) - (text.label < 0) == side), key=lambda t: t.digest)
        if side and len(own) < 2:
            raise DataError("to hold texts out, a search needs two texts or more of either end.")
        count = max(int(len(own) * share), abs(side))
        held_out += own[:count]
        others += own[count:]
    return others, held_out
