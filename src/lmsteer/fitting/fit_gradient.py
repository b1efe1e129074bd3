"""The gradient fit of a run: train a steer and a domain steer, and measure the steer on the held-out texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from lmsteer.data.labelled import texts_fingerprint
from lmsteer.errors import DataError
from lmsteer.fitting.gradient import GradientConfig, TextRows, Training, train
from lmsteer.fitting.run import Checkpointer, FitRun, HeldOutReporter
from lmsteer.model.lm import LM
from lmsteer.reading.held_out import HeldOutMetrics, held_out_metrics, measure_held_out
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.splits import held_out_of
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.util.interrupts import deferred_sigint

# Steps between two reports on the held-out texts.
_REPORT_STEPS = 100


def fit_gradient(run: FitRun, card: Card, config: GradientConfig) -> tuple[Steer, HeldOutMetrics, Steer | None]:
    """Train a steer, and a domain steer if the settings say so.

    Args:
        run: the run.
        card: the card of the steer, which this completes.
        config: the settings.

    Returns:
        The steer, its metrics on the held-out texts, and the domain steer.

    Raises:
        DataError: too few texts to hold some out.
        InterruptedWorkError: the user stopped the run.
    """
    lm, texts = run.lm, run.texts
    chosen = held_out_of(texts, run.ids)
    seen = sorted(set(range(len(texts))) - set(chosen))
    if not chosen or not seen:
        raise DataError("too few texts: none could be held out. Give fifty texts or more.")
    rows_of = TextRows(run.states, texts)
    held_out_rows = rows_of.rows(chosen)
    training = Training(lm.hidden_size, config, lm.head.device)
    settings = {key: value for key, value in asdict(config).items() if key != "steps"}
    configuration = run.configuration(settings)
    if run.has_state:
        training.restore(configuration)

    def save() -> None:
        training.save(configuration)

    with (
        run.resumable("The training so far is"),
        run.progress("training", config.steps, training.step) as step,
        deferred_sigint() as check,
    ):
        reporter = HeldOutReporter(lambda: _describe(lm, held_out_rows, *_steers(lm, training, card)))
        monitor = _Monitor(step, check, Checkpointer(save), reporter)
        try:
            train(training, rows_of, lm.head, seen, monitor)
        finally:
            save()
    data = {**card.data, "texts": len(texts), "fingerprint": hex(texts_fingerprint(texts))}
    card = replace(card, data=data, fit={"method": "gradient", **asdict(config), "max_tokens": run.max_tokens})
    steer, domain_steer = _steers(lm, training, card)
    held_out = measure_held_out(lm, held_out_rows, steer, domain_steer)
    return replace(steer, card=replace(card, held_out=held_out.to_json())), held_out, domain_steer


@dataclass(frozen=True)
class _Monitor:
    """What happens after each step: report, save, let Ctrl-C through.

    Attributes:
        step: reports a step.
        check: lets Ctrl-C through.
        checkpointer: saves the training from time to time.
        reporter: describes the held-out texts.
    """

    step: Callable[[int, str], None]
    check: Callable[[], None]
    checkpointer: Checkpointer
    reporter: HeldOutReporter

    def __call__(self, number: int, loss: float) -> None:
        if number % _REPORT_STEPS == 0:
            self.reporter.renew()
        self.step(1, f"loss {loss:.3f}, {self.reporter.latest}")
        self.checkpointer.step()
        self.check()


def _describe(lm: LM, rows: LabelledRows, steer: Steer, domain_steer: Steer | None) -> str:
    metrics = held_out_metrics(lm.head, rows, steer, domain_steer)
    return f"held out: {metrics.log_likelihood_gain:+.3f} nats a token, {metrics.sign_accuracy:.0%} of signs"


def _steers(lm: LM, training: Training, card: Card) -> tuple[Steer, Steer | None]:
    """The steer and the domain steer of a training as it stands."""
    domain_card = replace(card, name=f"{card.name}-domain", label="the manner of the texts, always on")
    domain = _steer(lm, training.factors_of("_domain"), domain_card) if training.config.domain else None
    return _steer(lm, training.factors_of(""), card), domain


def _steer(lm: LM, factors: dict[str, Tensor], card: Card) -> Steer:
    vocabulary, hidden_size = lm.head.weight.shape
    return Steer("multiply", factors, hidden_size, vocabulary, card)
