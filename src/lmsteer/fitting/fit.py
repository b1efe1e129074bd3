"""fit: from labelled texts, or statistics of some, to a steer on disk."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from lmsteer.data.labelled import (
    FEW_TEXTS,
    LabelledSource,
    LabelledText,
    check_labelled,
    half_of_dimension,
)
from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import check_rank
from lmsteer.fitting.few import has_few
from lmsteer.fitting.fit_closed_form import fit_closed_form, gather_all_statistics
from lmsteer.fitting.fit_gradient import fit_gradient
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.fitting.inside.fit_inside import check_sites, fit_inside
from lmsteer.fitting.run import FitRun
from lmsteer.fitting.site_names import HEAD_ALONE, check_site_names, is_inside
from lmsteer.fitting.statistics import Statistics
from lmsteer.fitting.statistics_files import check_statistics_target
from lmsteer.model.lm import LM
from lmsteer.reading.held_out import HeldOutMetrics
from lmsteer.steer.card import Card
from lmsteer.steer.files import load_steer, save_steer
from lmsteer.steer.lookup import target_folder
from lmsteer.steer.sites import HEAD
from lmsteer.steer.steer import Steer
from lmsteer.util.distributed import Processes, first_process_writes
from lmsteer.util.progress import Progress, no_progress

Method = Literal["closed-form", "gradient"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
        method: ``closed-form``, or ``gradient`` for the published recipe.
        sites: where the steer acts: ``head``, ``deep`` (the stream after the middle layer), ``lora`` (the linear layers
            of the middle third that write to the stream), names or patterns of sites inside the model
            (``lmsteer.steer.sites``), or several (closed form only). Default: the head alone.
        rank: rank of the steer, at each site. By default the closed form chooses it from the spectrum, or takes 8
            where ``lora`` is among the sites, and the gradient method takes that of ``gradient``.
        max_tokens: longer texts are cut to this many tokens; None cuts none.
        statistics: folders of saved statistics to add (closed form only).
        save_statistics: folder to save the statistics of all texts to (closed form only).
        resume: whether to continue a fit that was interrupted.
        cache_activations: whether to keep hidden states and residuals on disk, so that another fit on the same texts
            runs the model on the held-out ones alone, and to use those that are there.
        gradient: settings of the gradient method.
        processes: the processes that share the work; each calls ``fit`` with the same arguments and its own index
            (closed form only).
    """

    method: Method = "closed-form"
    sites: Sequence[str] = HEAD_ALONE
    rank: int | None = None
    max_tokens: int | None = None
    statistics: Sequence[str | Path] = ()
    save_statistics: str | Path | None = None
    resume: bool = False
    cache_activations: bool = False
    gradient: GradientConfig = field(default_factory=GradientConfig)
    processes: Processes = field(default_factory=Processes)

    @property
    def is_inside(self) -> bool:
        """Whether the steer acts at sites inside the model."""
        return is_inside(self.sites)

    def check(self, hidden_size: int) -> None:
        """Refuse settings that are out of range or do not go together.

        Raises:
            DataError: there are some.
        """
        if self.method not in METHODS:
            raise DataError(f"the method must be {' or '.join(METHODS)}, not {self.method!r}.")
        if self.method == "closed-form":
            check_rank(self.rank, hidden_size)
        check_site_names(self.sites)
        if self.is_inside and (self.method == "gradient" or self.statistics):
            raise DataError(
                "sites inside the model are for the closed form without saved statistics: the texts are read again for "
                "them."
            )
        if self.method == "gradient" and (self.statistics or self.save_statistics is not None):
            raise DataError("statistics are for the closed form only; the gradient method needs the texts.")
        if self.processes.count > 1 and (self.method == "gradient" or self.cache_activations):
            raise DataError(
                "the gradient method and the activation cache are for one process; leave them out, or run one process."
            )


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Attributes:
        steer: the steer.
        held_out: its metrics on the held-out texts.
        folder: the folder that the steer was saved to.
        statistics: statistics of all texts (closed form, in the first process only).
        domain_steer: the domain steer (gradient method only).
    """

    steer: Steer
    held_out: HeldOutMetrics
    folder: Path
    statistics: Statistics | None = None
    domain_steer: Steer | None = None


def fit(
    lm: LM,
    texts: Sequence[LabelledText] = (),
    *,
    name: str,
    label: str = "",
    source: LabelledSource | None = None,
    out: str | Path | None = None,
    config: FitConfig | None = None,
    progress: Progress = no_progress,
) -> Fit:
    """Fit a steer and save it.

    Args:
        lm: the frozen model.
        texts: labelled texts; there may be none if ``config`` names saved statistics.
        name: name of the style dimension.
        label: what +1 means, in words, for the steer's card.
        source: where the texts come from, for the steer's card; ``verify`` reads them from there again.
        out: folder of the steer; ``steers/NAME`` if None.
        config: settings; the default is the closed form.
        progress: reports how far the fit is.

    Warns:
        UserWarning: there is no source, and the labels fill half of the dimension only, such as 0 and 1.

    Raises:
        DataError: texts that no steer can be fitted on, or settings out of range.
        ModelError: no gradient reaches a site.
        WrongBaseError: statistics of another model.
        StatisticsError: statistics that cannot be read, or a folder for them that holds something else.
        InterruptedWorkError: the user stopped the fit; its state is kept.
        SteerError: the folder of the steer holds something else.
        OutputError: the disk cannot be written; what was done is kept.
    """
    config = config or FitConfig()
    folder = target_folder(name, out)
    if config.save_statistics is not None:
        check_statistics_target(Path(config.save_statistics))
    config.check(lm.hidden_size)
    _check_split(lm, config)
    origin = {"source": {k: v for k, v in asdict(source).items() if v is not None}} if source else {}
    card = lm.card(name, label=label, data=origin)
    with first_process_writes(lm.is_split, folder) as own:
        if own != folder and config.save_statistics is not None:
            config = replace(config, save_statistics=own.with_name(f"{own.name}.statistics"))
        return replace(_fit(lm, texts, card, source, own, config, progress), folder=folder)


def _fit(
    lm: LM,
    texts: Sequence[LabelledText],
    card: Card,
    source: LabelledSource | None,
    folder: Path,
    config: FitConfig,
    progress: Progress,
) -> Fit:
    """The fit, saved to a folder."""
    if config.is_inside:
        check_sites(lm, config.sites, config.rank)
    _check_texts(texts, source, config)
    texts = list({text.digest: text for text in texts}.values())  # twice in two shares would count twice
    if config.is_inside and len(texts) < FEW_TEXTS:
        raise _too_few(len(texts))
    run = FitRun(
        lm,
        texts,
        folder.with_name(f"{folder.name}.partial"),
        config.max_tokens,
        config.resume,
        config.cache_activations,
        progress if config.processes.is_main_process else no_progress,
        config.processes,
    )
    had_state = run.partial.exists()
    if not config.resume:
        shutil.rmtree(run.sites_partial, ignore_errors=True)
    try:
        if config.method == "gradient":
            result = _fit_gradient(run, card, config, folder)
        else:
            result = _fit_closed_form(run, card, config, folder)
    except DataError:  # the same texts will be refused again
        if not (config.resume and had_state):  # that state may be of another fit: keep it
            if config.processes.is_main_process:
                run.clear_all()
            else:
                run.clear()
        raise
    run.clear()
    return result


def _check_split(lm: LM, config: FitConfig) -> None:
    """Refuse settings that a model whose weights are split over processes cannot have."""
    if lm.is_split and (config.resume or config.processes.count > 1):
        raise DataError(
            "a model whose weights are split over processes is fitted by all of them together, from the start: leave "
            "resume and processes out."
        )


def _check_texts(texts: Sequence[LabelledText], source: LabelledSource | None, config: FitConfig) -> None:
    """Refuse texts without two labels; one part of several may lack a side of the dimension, but not every text."""
    if not texts and not config.statistics and source is None:
        raise DataError("nothing to fit: give labelled texts, or statistics of some.")
    is_part = bool(config.statistics) or config.save_statistics is not None
    if (source is not None and not texts) or not is_part:
        check_labelled(texts, source.path if source else "the data")
    if source is None and (doubt := half_of_dimension(texts)):  # who reads a source is told by it
        warnings.warn(doubt, UserWarning, stacklevel=4)


def _fit_closed_form(run: FitRun, card: Card, config: FitConfig, folder: Path) -> Fit:
    """The closed form. The first of several processes solves and saves; the others read what it saved."""
    fitted, statistics = None, gather_all_statistics(run, config.statistics)
    if statistics is not None:
        if config.save_statistics is not None:
            with run.resumable("The statistics are"):
                statistics.save(config.save_statistics)
        if config.is_inside and has_few(statistics):
            raise _too_few(statistics.texts)
        fitted = fit_closed_form(run, card, statistics, rank=config.rank)
    if config.is_inside:
        at_head = None if fitted is None or statistics is None else (fitted[0], statistics)
        fitted = fit_inside(run, at_head, config.sites, config.rank)
    if fitted is not None:
        with run.resumable("The statistics are"):
            save_steer(fitted[0], folder)
    run.processes.wait_for_everyone()
    if fitted is None:
        steer = load_steer(folder)
        return Fit(steer, HeldOutMetrics.from_json(steer.card.held_out), folder)
    return Fit(*fitted, folder, statistics=statistics)


def _too_few(texts: int) -> DataError:
    return DataError(
        f"{texts} texts are too few for sites inside the model: give {FEW_TEXTS} or more, or let the steer act at the "
        f"{HEAD} alone."
    )


def _fit_gradient(run: FitRun, card: Card, config: FitConfig, folder: Path) -> Fit:
    """The gradient method."""
    settings = config.gradient if config.rank is None else replace(config.gradient, rank=config.rank)
    steer, held_out, domain_steer = fit_gradient(run, card, settings)
    with run.resumable("The training so far is"):
        save_steer(steer, folder)
        if domain_steer is not None:
            save_steer(domain_steer, folder.with_name(f"{folder.name}-domain"))
    return Fit(steer, held_out, folder, domain_steer=domain_steer)
