"""The fit of a steer that acts inside the model: a second pass over the texts, forward and backward, and a step.

::

    texts ──first pass──> statistics ──> probe for credit, part at the head, end component        (fit_closed_form)
    texts ──second pass──> sums at each site ──> a map each ──> shares ──> unit of strength ──> steer

The sums of many sites do not fit in memory: then the texts are read once more for each group of sites that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmsteer.errors import DataError, StatisticsError
from lmsteer.fitting.inside.fisher import OwnText, site_factors
from lmsteer.fitting.inside.presets import check_ranks, sites_of_labels
from lmsteer.fitting.inside.solve import SiteMap, in_units, shared, site_map, unit_map, unit_settings
from lmsteer.fitting.inside.sums import InsideSums
from lmsteer.fitting.run import Checkpointer, FitRun
from lmsteer.fitting.site_names import LORA
from lmsteer.fitting.statistics import Statistics
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.inside import check_gradients
from lmsteer.model.lm import LM
from lmsteer.reading.held_out import HeldOutMetrics, measure_texts
from lmsteer.reading.hidden_rows import text_batches
from lmsteer.steer.sites import HEAD, Site
from lmsteer.steer.steer import EOS_FACTORS, LowRank, Steer, factors_of
from lmsteer.util.files import replace_file
from lmsteer.util.interrupts import deferred_sigint
from lmsteer.util.linalg import weighted_product
from lmsteer.util.run import Run, differing_settings, resumable

# Bytes that the sums and Fisher factors of the sites of a group take at most, if there are several.
_GROUP_BYTES = 3 * 2**29
# Of the maps of the preset ``lora``, unless a rank is given.
LORA_RANK = 8
# What the card says of the fit at the head that holds for the steer inside the model, too.
_OF_TEXTS = ("max_tokens", "credit_rows", "damping_eos")


def check_sites(lm: LM, patterns: Sequence[str], rank: int | None) -> None:
    """Refuse sites that a fit cannot have, before any work is done.

    Raises:
        DataError: the rank is larger than a map of one of the sites can have, or a preset stands for no site.
        SteerError: a pattern matches nothing.
        ModelError: the layers of the model cannot be found, or FSDP splits its weights.
    """
    check_gradients(lm)
    check_ranks(sites_of_labels(lm, patterns), rank)


def fit_inside(
    run: FitRun, at_head: tuple[Steer, Statistics] | None, patterns: Sequence[str], rank: int | None = None
) -> tuple[Steer, HeldOutMetrics] | None:
    """Let a steer act at sites inside the model, too, or there alone.

    Args:
        run: the run, whose texts are read again.
        at_head: the steer of the head that was fitted on these texts, whose end component stays as it is, and their
            statistics; None in all processes but the first.
        patterns: the sites; the part at the head stays if ``head`` is one of them.
        rank: rank of each map; None chooses it from the spectrum, or takes 8 for all if ``lora`` is among the patterns.

    Returns:
        The steer and its metrics on the held-out texts; None in all processes but the first.

    Raises:
        DataError: too few texts are held out, or none of the sites tells the labels of these apart.
        SteerError: a pattern matches no site.
        ModelError: a site that no gradient reaches, or that a forward pass does not call once.
        StatisticsError: the sums of another process cannot be read.
        InterruptedWorkError: the user stopped the run; the sums are kept.
    """
    sites = sites_of_labels(run.lm, patterns)
    rank = rank or (LORA_RANK if LORA in patterns else None)
    names = {"sites": [site.name for site in sites]}
    kept = Run(run.sites_partial, {**run.configuration().config, **names}, "an interrupted fit")
    with resumable(lambda: run.kept_in(run.sites_partial, "The work so far is")):
        kept.open()
        probe, maps = _probe(run, at_head), dict[str, SiteMap]()
        for number, group in enumerate(site_groups(sites)):
            fisher = site_factors(run.lm, group, run.progress) if at_head else {}
            sums = _all_sums(run, group, probe, f"sums-{number}.safetensors")
            if sums is not None:
                maps |= {
                    site.name: site_map(*sums.gradients(site), fisher.pop(site.name), sums.held_out(site), rank)
                    for site in group
                }
        return None if at_head is None else _joined(run, *at_head, maps, patterns)


def _joined(
    run: FitRun, steer: Steer, statistics: Statistics, maps: dict[str, SiteMap], patterns: Sequence[str]
) -> tuple[Steer, HeldOutMetrics]:
    """The steer of the maps of all sites, in one unit of strength, and its metrics on the held-out texts."""
    lm = run.lm
    maps = shared({HEAD: _head_map(lm, steer, statistics), **maps} if HEAD in patterns else maps)
    if not maps:
        raise DataError(
            f"no map at {', '.join(patterns)} makes held-out texts likelier: the labels do not show there. Give more "
            "texts, or other sites."
        )
    eos = {name: steer.factors[name] for name in EOS_FACTORS if name in steer.factors}
    factors = factors_of({name: each.factors for name, each in maps.items()}, lm.hidden_size)
    inside, unit = in_units(replace(steer, factors=factors), OwnText(lm))
    done = replace(inside, factors={**inside.factors, **eos})
    texts, ids = zip(*run.held_out, strict=True)
    metrics = measure_texts(lm, texts, ids, done)
    of_texts = {name: steer.card.fit[name] for name in _OF_TEXTS if name in steer.card.fit}
    fit = {"method": "closed-form", **of_texts, **unit_settings(maps, unit)}
    return replace(done, card=replace(steer.card, fit=fit, held_out=metrics.to_json())), metrics


def _probe(run: FitRun, at_head: tuple[Steer, Statistics] | None) -> Tensor | None:
    """The probe for credit assignment (d,), which the first process has and hands to the others; None if there is none.

    Raises:
        StatisticsError: the disk of the first process cannot be seen here.
    """
    file = run.site_folders[0] / "probe.safetensors"
    if at_head is not None:
        factors = at_head[0].factors
        probe = {"probe": factors["A_eos"][:, 0].double()} if EOS_FACTORS[0] in factors else {}
        with replace_file(file) as aside:
            save_file(probe, aside)
    run.processes.wait_for_everyone()
    try:
        return load_file(file).get("probe")
    except (OSError, SafetensorError) as error:
        raise StatisticsError(f"cannot read {file}: {error}. The processes must share a disk.") from error


def _all_sums(run: FitRun, sites: Sequence[Site], probe: Tensor | None, name: str) -> InsideSums | None:
    """The sums of the texts of all processes; None in all processes but the first, which adds them up.

    Args:
        run: the run.
        sites: the sites.
        probe: the probe for credit assignment.
        name: the name of the file that the sums of a process are kept in.

    Raises:
        StatisticsError: the sums of another process are not there.
    """
    sums = _gather(run, sites, probe, run.sites_partial / name)
    run.processes.wait_for_everyone()
    if not run.processes.is_main_process:
        return None
    own = Run(run.sites_partial, {}).kept() or {}
    for folder, (_, share) in zip(run.site_folders[1:], run.parts[1:], strict=True):
        same = {"model": own.get("model"), "sites": own.get("sites"), "share": share}
        batches, of = sums.add_file(folder / name)
        if batches < of or differing_settings(same, Run(folder, {}).kept() or {}):
            raise StatisticsError(f"{folder} does not hold share {share}: the processes must share a disk.")
    return sums


def site_groups(sites: Sequence[Site]) -> list[list[Site]]:
    """Sites in their order, in groups whose sums and Fisher factors fit in memory together; one at least."""
    groups, size = list[list[Site]](), 0
    for site in sites:
        # float64: four sums of (n, m), and C and F with their eigenvectors.
        own = 8 * (4 * site.inputs * site.outputs + 2 * (site.inputs**2 + site.outputs**2))
        if not groups or size + own > _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(site)
        size += own
    return groups


def _head_map(lm: LM, steer: Steer, statistics: Statistics) -> SiteMap:
    """The part of a steer at the head as a map like the others, of Fisher length 1."""
    rows = statistics.held_out[~statistics.held_out.is_end]
    held_out = weighted_product(rows.h, rows.r, rows.label.double() / len(rows))
    factors = LowRank(steer.factors["A"].double(), steer.factors["B"].double())
    share = steer.card.fit.get("rank_share")
    return unit_map(factors, fisher_factors(lm), held_out, share if isinstance(share, float) else 1.0)


def _gather(run: FitRun, sites: Sequence[Site], probe: Tensor | None, file: Path) -> InsideSums:
    """The sums of the run's texts; an interrupted run continues with the first batch that is missing.

    Args:
        run: the run.
        sites: the sites.
        probe: the probe for credit assignment.
        file: the file that the sums are kept in.
    """
    lm, chosen = run.lm, {text.digest for text, _ in run.held_out}
    sums = InsideSums(sites)
    first = sums.add_file(file)[0] if file.exists() else 0
    parts = [[i for i, text in enumerate(run.texts) if (text.digest in chosen) == held] for held in (True, False)]
    batches = [(k, [part[j] for j in own]) for k, part in enumerate(parts) for own in _batches(run, part)]
    done = first

    def save() -> None:
        sums.save(file, done, len(batches))

    sizes = [sum(len(run.ids[i]) for i in batch) for _, batch in batches]
    saves = Checkpointer(save)
    with (
        run.progress("reading texts for the sites", sum(sizes), sum(sizes[:first])) as step,
        deferred_sigint() as check,
    ):
        try:
            for (kind, batch), size in list(zip(batches, sizes, strict=True))[first:]:
                texts, ids = [run.texts[i] for i in batch], [run.ids[i] for i in batch]
                sums.add(lm, texts, ids, probe, held_out=kind == 0)
                done += 1
                step(size, "")
                saves.step()
                check()
        finally:
            if done > first or not file.exists():
                save()
    return sums


def _batches(run: FitRun, chosen: Sequence[int]) -> list[list[int]]:
    return text_batches([run.ids[i] for i in chosen])
