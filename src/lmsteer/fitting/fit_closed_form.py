"""The closed-form fit of a run: gather statistics, alone or with other processes, and solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmsteer.errors import StatisticsError
from lmsteer.fitting.closed_form import Solution, preview_held_out, solve
from lmsteer.fitting.few import FOLDS, FewTexts, has_few, solve_few
from lmsteer.fitting.run import Checkpointer, FitRun, HeldOutReporter
from lmsteer.fitting.statistics import Statistics, gather_statistics, load_statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.batching import tokens_per_batch
from lmsteer.model.fisher import FisherFactors
from lmsteer.reading.encoded_text import count_predicted
from lmsteer.reading.held_out import HeldOutMetrics, measure_folds, measure_held_out
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.util.devices import float64_device
from lmsteer.util.interrupts import deferred_sigint


def gather_all_statistics(run: FitRun, saved: Sequence[str | Path]) -> Statistics | None:
    """The statistics of the run's texts, of those of the other processes, and of saved ones.

    Args:
        run: the run of this process.
        saved: folders of saved statistics.

    Returns:
        The statistics; None in all processes but the first, which merges them.

    Raises:
        WrongBaseError: saved statistics of another model.
        StatisticsError: statistics that cannot be read or saved, or another process whose disk this one cannot see.
        InterruptedWorkError: the user stopped the run.
    """
    statistics, processes = Statistics.empty(run.lm), run.processes
    for folder in saved:
        loaded, _ = load_statistics(folder)
        loaded.provenance.check_base(run.lm)
        statistics = statistics.merge(loaded)
    if not run.labelled and processes.count == 1:
        return statistics
    with run.resumable("The statistics gathered so far are"):
        with processes.main_process_first():
            fisher = fisher_factors(run.lm)
        gathered = _gather(run, fisher)
        processes.wait_for_everyone()
        if not processes.is_main_process:
            return None
        for part, share in run.parts:
            statistics = statistics.merge(gathered if part == run.partial else _load_part(part, share))
    return statistics


def fit_closed_form(
    run: FitRun, card: Card, statistics: Statistics, *, rank: int | None = None
) -> tuple[Steer, HeldOutMetrics]:
    """Solve for the steer of some statistics, and measure it on the held-out texts, or by folds if there are few.

    Args:
        run: the run, for its model.
        card: the card of the steer, which this completes.
        statistics: statistics of all texts.
        rank: rank of the steer; None chooses it from the spectrum.

    Raises:
        DataError: too few texts at either end of the dimension.
        InterruptedWorkError: the user stopped the run.
    """
    lm, cross_validation = run.lm, dict[str, int]()
    vocabulary, hidden_size = lm.head.weight.shape

    def steer_of(solution: Solution) -> Steer:
        return Steer("multiply", solution.factors, hidden_size, vocabulary, card)

    with run.resumable("The statistics are"):
        fisher = fisher_factors(lm)
        if has_few(statistics):
            few = FewTexts.of(statistics)
            gradients = few.gradients(lm, run.progress)
            solution = solve_few(few, gradients, fisher, rank=rank)
            steers = [steer_of(solve_few(few, gradients, fisher, without=k, rank=rank)) for k in range(FOLDS)]
            held_out = measure_folds(lm, list(zip(few.folds, steers, strict=True)))
            cross_validation["folds"] = FOLDS
        else:
            solution = solve(statistics, fisher, lm.head, rank=rank)
            held_out = measure_held_out(lm, statistics.held_out, steer_of(solution))
    card = replace(
        card,
        data={**card.data, "texts": statistics.texts, "fingerprint": hex(statistics.fingerprint)},
        fit={"method": "closed-form", **solution.settings, "max_tokens": run.max_tokens, **cross_validation},
        held_out=held_out.to_json(),
    )
    return replace(steer_of(solution), card=card), held_out


def _gather(run: FitRun, fisher: FisherFactors) -> Statistics:
    """The statistics of the run's own texts; an interrupted run continues with the first batch that is missing."""
    device = float64_device(run.lm.head.device)
    fisher = fisher.to(device)
    configuration = run.configuration({"tokens_per_batch": tokens_per_batch(run.lm.device)})
    statistics, first = Statistics.empty(run.lm), 0
    if run.has_state:
        statistics, record = load_statistics(run.partial)
        statistics.provenance.check_base(run.lm)
        configuration.check(record.get("run", {}))
        statistics, first = statistics.to(device), int(record["batches"])
    batches = run.states.batches
    sizes = [sum(count_predicted(run.ids[i]) for i in batch) for batch in batches]

    def save() -> None:
        statistics.save(run.partial, run=configuration.config, batches=monitor.done, of=len(batches), share=run.share)

    with run.progress("reading texts", sum(sizes), sum(sizes[:first])) as step, deferred_sigint() as check:
        reporter = HeldOutReporter(lambda: preview_held_out(statistics, fisher))
        monitor = _Monitor(first, step, check, Checkpointer(save), reporter)
        try:
            gather_statistics(run.states, run.texts, statistics, first_batch=first, after_batch=monitor)
        finally:
            save()  # and kept until the fit ends, because solving takes a while, too
    return statistics


@dataclass
class _Monitor:
    """What happens after each batch: report, save, let Ctrl-C through.

    Attributes:
        done: number of batches that are in the statistics.
        step: reports the tokens of a batch.
        check: lets Ctrl-C through.
        checkpointer: saves the statistics from time to time.
        reporter: describes the held-out texts from time to time.
    """

    done: int
    step: Callable[[int, str], None]
    check: Callable[[], None]
    checkpointer: Checkpointer
    reporter: HeldOutReporter

    def __call__(self, number: int, tokens: int) -> None:
        self.done = number
        self.step(tokens, self.reporter.message())
        self.checkpointer.step()
        self.check()


def _load_part(folder: Path, share: str) -> Statistics:
    """The statistics of another process, which must be complete and of the same texts."""
    statistics, record = load_statistics(folder)
    if record.get("share") != share or record.get("batches") != record.get("of"):
        raise StatisticsError(f"{folder} does not hold share {share}: the processes must share a disk.")
    return statistics
