"""fit: from labelled texts, or statistics of some, to a steer on disk."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from torch import Tensor

from lmsteer.errors import DataError, InterruptedFitError
from lmsteer.evaluation.reading import Reading, read
from lmsteer.fitting.closed_form import outlook, solve
from lmsteer.fitting.curvature import Curvature, curvature
from lmsteer.fitting.data import LabelledText, check_labelled
from lmsteer.fitting.gradient import Recipe, RowStore, Training, train
from lmsteer.fitting.rows import batches, encode_whole
from lmsteer.fitting.statistics import Statistics, gather_statistics, held_out_of, load_statistics
from lmsteer.lm import LM
from lmsteer.progress import Progress, no_progress
from lmsteer.steers.files import STEERS_FOLDER, save_steer
from lmsteer.steers.steer import Card, Steer

Method = Literal["closed-form", "gradient"]
# An interrupted pass loses at most so many seconds of work.
_SAVE_EVERY = 60.0
# Seconds, and steps of the gradient method, between two looks at the held-out texts.
_TELL_EVERY, _TELL_STEPS = 10.0, 100


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a fit gives.

    Attributes:
        steer: the steer.
        reading: of the held-out texts.
        folder: where the steer was saved, if it was.
        statistics: of the texts (closed form only).
        domain: the domain steer (gradient method only).
    """

    steer: Steer
    reading: Reading
    folder: Path | None = None
    statistics: Statistics | None = None
    domain: Steer | None = None


def fit(
    lm: LM,
    texts: Sequence[LabelledText] = (),
    *,
    name: str,
    method: Method = "closed-form",
    rank: int | None = None,
    label: str = "",
    source: str = "",
    out: str | Path | None = None,
    statistics: Sequence[str | Path] = (),
    save_statistics: str | Path | None = None,
    max_tokens: int | None = None,
    resume: bool = False,
    recipe: Recipe | None = None,
    progress: Progress = no_progress,
) -> Fit:
    """Fit a steer and save it.

    Args:
        lm: the frozen model.
        texts: labelled texts; may be none where ``statistics`` are given.
        name: of the dimension.
        method: ``closed-form``, or ``gradient`` for the published recipe.
        rank: of the steer; None chooses it (closed form), or takes the recipe's (gradient).
        label: what +1 means, in words, for the steer card.
        source: where the texts come from, for the steer card.
        out: folder of the steer; ``steers/NAME`` if None.
        statistics: folders of saved statistics to take in.
        save_statistics: folder to save the statistics of all texts to.
        max_tokens: cut longer texts.
        resume: go on with a fit that was interrupted.
        recipe: settings of the gradient method.
        progress: what to tell of the work.

    Raises:
        DataError: texts that no steer can be fitted on.
        WrongBaseError: statistics of another model.
        StatisticsError: statistics that cannot be read.
        InterruptedFitError: the user stopped the fit; what was gathered is kept.
        SteerError: the steer cannot be saved.
    """
    folder = STEERS_FOLDER / name if out is None else Path(out)
    if not texts and not statistics:
        raise DataError("nothing to fit: give labelled texts, or statistics of some.")
    if texts and not statistics:
        check_labelled(texts, source or "the data")
    work = _Work(lm, texts, folder.with_name(f"{folder.name}.partial"), max_tokens, resume, progress)
    if method == "gradient":
        if statistics:
            raise DataError("statistics serve the closed form only; the gradient method needs the texts.")
        recipe = recipe or Recipe()
        recipe = dataclasses.replace(recipe, rank=rank or recipe.rank)
        done = _fit_gradient(work, _card(lm, name, label), recipe)
    else:
        done = _fit_closed_form(work, _card(lm, name, label), rank, statistics)
        if save_statistics is not None and done.statistics is not None:
            done.statistics.save(save_statistics)
    data = {**done.steer.card.data, "source": source}
    steer = dataclasses.replace(done.steer, card=dataclasses.replace(done.steer.card, data=data))
    save_steer(steer, folder)
    if done.domain is not None:
        save_steer(done.domain, folder.with_name(f"{folder.name}-domain"))
    shutil.rmtree(work.partial, ignore_errors=True)
    return dataclasses.replace(done, steer=steer, folder=folder)


@dataclasses.dataclass
class _Work:
    """The texts of a fit, and where an interrupted one is kept."""

    lm: LM
    texts: Sequence[LabelledText]
    partial: Path
    max_tokens: int | None
    resume: bool
    progress: Progress

    @property
    def fingerprint(self) -> str:
        return hex(sum(text.digest for text in self.texts))

    @property
    def resumable(self) -> bool:
        return self.resume and self.partial.exists()

    @contextmanager
    def interruptible(self, what: str) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            raise InterruptedFitError(
                f"interrupted; {what} kept in {self.partial}. The same command with --resume goes on from there."
            ) from None


def _fit_closed_form(work: _Work, card: Card, rank: int | None, saved: Sequence[str | Path]) -> Fit:
    statistics = Statistics.empty(work.lm)
    for folder in saved:
        loaded, _ = load_statistics(folder)
        loaded.check_base(work.lm.name, work.lm.fingerprint)
        statistics = statistics.merge(loaded)
    own = curvature(work.lm)
    if work.texts:
        statistics = statistics.merge(_gather(work, own))
    solution = solve(statistics, own, work.lm.head, rank=rank)
    steer = _steer(work.lm, solution.factors, card)
    reading = read(work.lm.head, statistics.held_out, steer)
    card = dataclasses.replace(
        card,
        data={"texts": statistics.texts, "fingerprint": hex(statistics.fingerprint)},
        fit={"method": "closed-form", **solution.settings, "max_tokens": work.max_tokens},
        held_out=reading.to_json(),
    )
    return Fit(dataclasses.replace(steer, card=card), reading, statistics=statistics)


def _gather(work: _Work, own: Curvature) -> Statistics:
    ids = encode_whole(work.lm, work.texts, work.max_tokens)
    plan = batches(ids)
    statistics, first = Statistics.empty(work.lm), 0
    if work.resumable:
        statistics, first = _resumed(work)
    total = sum(len(ids[i]) - 1 for batch in plan for i in batch)
    before = sum(len(ids[i]) - 1 for batch in plan[:first] for i in batch)
    state = {"batches": first, "saved": time.monotonic(), "told": time.monotonic()}
    said = ""

    def keep() -> None:
        statistics.save(work.partial, texts=work.fingerprint, batches=state["batches"])
        state["saved"] = time.monotonic()

    def after_batch(number: int, tokens: int) -> None:
        nonlocal said
        state["batches"] = number
        if time.monotonic() - state["told"] > _TELL_EVERY:
            said = outlook(statistics, own)
            state["told"] = time.monotonic()
        step(tokens, said)
        if time.monotonic() - state["saved"] > _SAVE_EVERY:
            keep()

    with (
        work.interruptible("the statistics gathered so far are"),
        work.progress("reading texts", total, before) as step,
    ):
        try:
            gather_statistics(work.lm, work.texts, ids, statistics, first_batch=first, after_batch=after_batch)
        except KeyboardInterrupt:
            keep()
            raise
    return statistics


def _resumed(work: _Work) -> tuple[Statistics, int]:
    statistics, record = load_statistics(work.partial)
    statistics.check_base(work.lm.name, work.lm.fingerprint)
    if record.get("texts") != work.fingerprint:
        raise DataError(f"{work.partial} holds an interrupted fit of other texts; remove it to start anew.")
    return statistics, int(record["batches"])


def _fit_gradient(work: _Work, card: Card, recipe: Recipe) -> Fit:
    lm = work.lm
    ids = encode_whole(lm, work.texts, work.max_tokens)
    chosen = held_out_of(work.texts, ids)
    seen = [i for i in range(len(ids)) if i not in set(chosen) and len(ids[i]) > 1]
    if not chosen or not seen:
        raise DataError("too few texts: none could be held out. Give fifty texts or more.")
    store = RowStore(lm, [work.texts[i] for i in seen], [ids[i] for i in seen])
    rows = RowStore(lm, [work.texts[i] for i in chosen], [ids[i] for i in chosen]).rows(range(len(chosen)))
    training = Training(lm.hidden_size, recipe)
    if work.resumable:
        training.restore(work.partial, work.fingerprint)
    saved, said = time.monotonic(), ""

    def after_step(number: int, loss: float) -> None:
        nonlocal saved, said
        if number % _TELL_STEPS == 0:
            found = read(lm.head, rows, *_trained(lm, training, card))
            said = f"held out: {found.gain:+.3f} nats a token, {found.signs:.0%} of signs"
        step(1, f"loss {loss:.3f}, {said}")
        if time.monotonic() - saved > _SAVE_EVERY:
            training.save(work.partial, work.fingerprint)
            saved = time.monotonic()

    with (
        work.interruptible("what was trained so far is"),
        work.progress("training", recipe.steps, training.step) as step,
    ):
        try:
            train(training, store, lm.head, len(seen), after_step)
        except KeyboardInterrupt:
            training.save(work.partial, work.fingerprint)
            raise
    data = {"texts": len(work.texts), "fingerprint": work.fingerprint}
    about = {"method": "gradient", **dataclasses.asdict(recipe)}
    card = dataclasses.replace(card, data=data, fit=about)
    steer, domain = _trained(lm, training, card)
    reading = read(lm.head, rows, steer, domain)
    card = dataclasses.replace(card, held_out=reading.to_json())
    return Fit(dataclasses.replace(steer, card=card), reading, domain=domain)


def _trained(lm: LM, training: Training, card: Card) -> tuple[Steer, Steer | None]:
    """The steer and the domain steer of a training as it stands."""
    named = dataclasses.replace(card, name=f"{card.name}-domain", label="the manner of the texts, always on")
    domain = _steer(lm, training.factors_of("_domain"), named) if training.recipe.domain else None
    return _steer(lm, training.factors_of(""), card), domain


def _steer(lm: LM, factors: dict[str, Tensor], card: Card) -> Steer:
    vocabulary, hidden_size = lm.head.weight.shape
    return Steer("multiply", factors, hidden_size, vocabulary, card)


def _card(lm: LM, name: str, label: str) -> Card:
    return Card(name, lm.name, lm.fingerprint, lm.tokenizer_fingerprint, label=label)
