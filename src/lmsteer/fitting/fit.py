"""fit: from labelled texts, or statistics of some, to a steer on disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lmsteer.data.labelled import LabelledSource, LabelledText, check_labelled, texts_fingerprint
from lmsteer.errors import DataError, StatisticsError
from lmsteer.fitting.closed_form import preview_held_out, solve
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training, train
from lmsteer.fitting.run import Work
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.reading.held_out import Reading, read
from lmsteer.reading.splits import held_out_of
from lmsteer.steer.card import Card
from lmsteer.steer.files import save_steer
from lmsteer.steer.lookup import STEERS_FOLDER, check_target
from lmsteer.steer.steer import Steer
from lmsteer.util.distributed import Processes
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.progress import Progress, no_progress

Method = Literal["closed-form", "gradient"]
_ALONE = Processes()
# An interrupted fit loses at most so many seconds of work.
_SAVE_EVERY = 60.0
# Seconds, and steps of the gradient method, between two looks at the held-out texts.
_TELL_EVERY, _TELL_STEPS = 10.0, 100


@dataclass(frozen=True)
class Fit:
    """What a fit gives.

    Attributes:
        steer: the steer.
        reading: of the held-out texts.
        folder: where the steer was saved.
        statistics: of the texts (closed form only).
        domain: the domain steer (gradient method only).
    """

    steer: Steer
    reading: Reading
    folder: Path
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
    source: LabelledSource | None = None,
    out: str | Path | None = None,
    statistics: Sequence[str | Path] = (),
    save_statistics: str | Path | None = None,
    max_tokens: int | None = None,
    resume: bool = False,
    store: bool = False,
    recipe: GradientConfig | None = None,
    processes: Processes = _ALONE,
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
        source: where the texts come from, for the steer card; ``verify`` reads them there again.
        out: folder of the steer; ``steers/NAME`` if None.
        statistics: folders of saved statistics to take in.
        save_statistics: folder to save the statistics of all texts to.
        max_tokens: cut longer texts.
        resume: go on with a fit that was interrupted.
        store: keep hidden states and residuals in the cache, so that another fit on these texts, by either method,
            needs no pass; and use those that are kept.
        recipe: settings of the gradient method.
        processes: those that share the work, each with the same arguments and its own index (closed form only).
        progress: what to tell of the work.

    Raises:
        DataError: texts that no steer can be fitted on, or settings out of range.
        WrongBaseError: statistics of another model.
        StatisticsError: statistics that cannot be read or saved.
        InterruptedWorkError: the user stopped the fit; what was gathered is kept.
        SteerError: the steer cannot be saved.
    """
    folder = (STEERS_FOLDER / name if out is None else Path(out)).absolute()
    check_target(folder)
    if method not in ("closed-form", "gradient"):
        raise DataError(f"the method is closed-form or gradient, not {method!r}.")
    if rank is not None and not 1 <= rank <= lm.hidden_size and method == "closed-form":
        raise DataError(f"the rank must be from 1 to the model's hidden size, {lm.hidden_size}, not {rank}.")
    if not texts and not statistics and source is None:
        raise DataError("nothing to fit: give labelled texts, or statistics of some.")
    # One part of several may lack a side of the dimension, but not everything.
    is_part = bool(statistics) or save_statistics is not None
    if (source is not None and not texts) or not is_part:
        check_labelled(texts, source.path if source else "the data")
    if processes.count > 1 and (method == "gradient" or store):
        raise DataError("the gradient method and the store are for one process; leave them out, or run one.")
    texts = list({text.digest: text for text in texts}.values())  # twice in two shares would count twice
    parts = processes.parts(folder.with_name(f"{folder.name}.partial"), f"{texts_fingerprint(texts):x}")
    partial, share = parts[processes.index]
    tell = progress if processes.is_first else no_progress
    work = Work(lm, processes.share(texts), partial, max_tokens, resume, store, tell, share)
    origin = {"source": {k: v for k, v in asdict(source).items() if v is not None}} if source else {}
    card = lm.card(name, label=label, data=origin)
    if method == "closed-form":
        all_statistics = _statistics(work, statistics, processes, parts)
        if save_statistics is not None and processes.is_first:
            all_statistics.save(save_statistics)
        done = _solve(work, card, rank, all_statistics, folder)
    elif statistics or save_statistics is not None:
        raise DataError("statistics serve the closed form only; the gradient method needs the texts.")
    else:
        recipe = recipe or GradientConfig()
        done = _train(work, card, recipe if rank is None else replace(recipe, rank=rank), folder)
    if processes.is_first:
        save_steer(done.steer, folder)
    if done.domain is not None:
        save_steer(done.domain, folder.with_name(f"{folder.name}-domain"))
    processes.wait()
    shutil.rmtree(work.partial, ignore_errors=True)
    return done


def _statistics(
    work: Work, saved: Sequence[str | Path], processes: Processes, parts: Sequence[tuple[Path, str]]
) -> Statistics:
    """The statistics of the work's texts, of the other processes' and of saved ones."""
    statistics = Statistics.empty(work.lm)
    for folder in saved:
        loaded, _ = load_statistics(folder)
        loaded.check_base(work.lm.name, work.lm.fingerprint)
        statistics = statistics.merge(loaded)
    if not work.given and processes.count == 1:
        return statistics
    with work.interruptible("the statistics gathered so far are"):
        with processes.first_goes_first():
            own = fisher_factors(work.lm)
        gathered = _gather(work, own)
        processes.wait()
        for part, share in parts:
            statistics = statistics.merge(gathered if part == work.partial else _part(part, share))
        processes.wait()
    return statistics


def _part(folder: Path, share: str) -> Statistics:
    """The statistics of another process, which must be whole and of the same launch's texts."""
    statistics, record = load_statistics(folder)
    if record.get("share") != share or record.get("batches") != record.get("of"):
        raise StatisticsError(f"{folder} does not hold share {share}: the processes must have a disk in common.")
    return statistics


def _gather(work: Work, own: FisherFactors) -> Statistics:
    plan = work.states.batches
    statistics, first = _resumed(work) if work.resumable else (Statistics.empty(work.lm), 0)
    sizes = [sum(len(work.ids[i]) - 1 for i in batch) for batch in plan]
    saved = told = time.monotonic()
    done, said = first, ""

    def after_batch(number: int, tokens: int) -> None:
        nonlocal saved, told, done, said
        done = number
        if time.monotonic() - told > _TELL_EVERY:
            said, told = preview_held_out(statistics, own), time.monotonic()
        step(tokens, said)
        if time.monotonic() - saved > _SAVE_EVERY:
            statistics.save(work.partial, plan=work.plan, batches=done, of=len(plan), share=work.share)
            saved = time.monotonic()
        check()

    with work.progress("reading texts", sum(sizes), sum(sizes[:first])) as step, deferred_sigint() as check:
        try:
            gather_statistics(work.states, work.texts, statistics, first_batch=first, after_batch=after_batch)
        finally:
            # Kept to the end of the fit: choosing the scale takes a while, too.
            statistics.save(work.partial, plan=work.plan, batches=done, of=len(plan), share=work.share)
    return statistics


def _resumed(work: Work) -> tuple[Statistics, int]:
    statistics, record = load_statistics(work.partial)
    statistics.check_base(work.lm.name, work.lm.fingerprint)
    if record.get("plan") != work.plan:
        raise DataError(f"{work.partial} holds an interrupted fit of other texts or settings; remove it to start anew.")
    return statistics, int(record["batches"])


def _solve(work: Work, card: Card, rank: int | None, statistics: Statistics, folder: Path) -> Fit:
    with work.interruptible("the statistics are"):
        solution = solve(statistics, fisher_factors(work.lm), work.lm.head, rank=rank)
        steer = _steer(work.lm, solution.factors, card)
        reading = read(work.lm.head, statistics.held_out, steer)
    card = replace(
        card,
        data={**card.data, "texts": statistics.texts, "fingerprint": hex(statistics.fingerprint)},
        fit={"method": "closed-form", **solution.settings, "max_tokens": work.max_tokens},
        held_out=reading.to_json(),
    )
    return Fit(replace(steer, card=card), reading, folder, statistics=statistics)


def _train(work: Work, card: Card, recipe: GradientConfig, folder: Path) -> Fit:
    lm, texts, ids = work.lm, work.texts, work.ids
    chosen = held_out_of(texts, ids)
    seen = sorted(set(range(len(texts))) - set(chosen))
    if not chosen or not seen:
        raise DataError("too few texts: none could be held out. Give fifty texts or more.")
    store = TextRows(work.states, texts)
    rows = store.rows(chosen)
    training = Training(lm.hidden_size, recipe)
    if work.resumable:
        training.restore(work.partial, work.plan)
    saved, said = time.monotonic(), ""

    def after_step(number: int, loss: float) -> None:
        nonlocal saved, said
        if number % _TELL_STEPS == 0:
            found = read(lm.head, rows, *_trained(lm, training, card))
            said = f"held out: {found.log_likelihood_gain:+.3f} nats a token, {found.sign_accuracy:.0%} of signs"
        step(1, f"loss {loss:.3f}, {said}")
        if time.monotonic() - saved > _SAVE_EVERY:
            training.save(work.partial, work.plan)
            saved = time.monotonic()
        check()

    with (
        work.interruptible("what was trained so far is"),
        work.progress("training", recipe.steps, training.step) as step,
        deferred_sigint() as check,
    ):
        try:
            train(training, store, lm.head, seen, after_step)
        finally:
            training.save(work.partial, work.plan)
    about: dict[str, Any] = {"texts": len(texts), "fingerprint": hex(texts_fingerprint(texts))}
    card = replace(card, data={**card.data, **about}, fit={"method": "gradient", **asdict(recipe)})
    steer, domain = _trained(lm, training, card)
    reading = read(lm.head, rows, steer, domain)
    card = replace(card, held_out=reading.to_json())
    return Fit(replace(steer, card=card), reading, folder, domain=domain)


def _trained(lm: LM, training: Training, card: Card) -> tuple[Steer, Steer | None]:
    """The steer and the domain steer of a training as it stands."""
    named = replace(card, name=f"{card.name}-domain", label="the manner of the texts, always on")
    domain = _steer(lm, training.factors_of("_domain"), named) if training.recipe.domain else None
    return _steer(lm, training.factors_of(""), card), domain


def _steer(lm: LM, factors: dict[str, Tensor], card: Card) -> Steer:
    vocabulary, hidden_size = lm.head.weight.shape
    return Steer("multiply", factors, hidden_size, vocabulary, card)
