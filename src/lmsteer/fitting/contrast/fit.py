"""fit_contrast: from two descriptions, or a prompt, to a steer on disk. No labelled text is needed.

::

    descriptions ──> prompts ──the model writes──> texts ──read after each prompt──> hidden states ──> W ──> steer

The model writes short texts under both instructions. The steer is the linear map that comes nearest to the shift that
the instructions make of the hidden state at each of their tokens (``regression``), at the head or at sites inside the
model, from the first to the last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import check_rank
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.fitting.contrast.imitation import Imitation, imitation
from lmsteer.fitting.contrast.prompts import ContrastPrompts, contrast_prompts
from lmsteer.fitting.contrast.regression import DAMPING, ShiftRegression, low_rank
from lmsteer.fitting.contrast.rows import ContrastRows, read_texts
from lmsteer.fitting.contrast.writing import ContrastText, KeptTexts, taken_over, write_texts
from lmsteer.fitting.inside.fisher import site_factors
from lmsteer.fitting.inside.fit_inside import site_groups
from lmsteer.fitting.inside.presets import check_ranks, sites_of_description
from lmsteer.fitting.inside.stream_effect import stream_effects
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.lm import LM
from lmsteer.steer.card import Card
from lmsteer.steer.files import save_steer
from lmsteer.steer.lookup import target_folder
from lmsteer.steer.sites import HEAD, Site
from lmsteer.steer.steer import LowRank, Steer, factors_of
from lmsteer.util.files import exclusive
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.run import Run

# Rows on unseen subjects that the steer is compared with the instructions on.
_UNSEEN_ROWS = 768


@dataclass(frozen=True)
class ContrastFit:
    """The result of a fit from descriptions.

    Attributes:
        steer: the steer.
        folder: the folder that it was saved to.
        imitation: how far the instructions change the model's predictions, and how near strength 1 comes to that.
        samples: the first text that the model wrote for either end.
    """

    steer: Steer
    folder: Path
    imitation: Imitation
    samples: tuple[str, str]


def fit_contrast(
    lm: LM,
    contrast: Contrast,
    *,
    name: str,
    label: str = "",
    subjects: Sequence[str] = (),
    teacher: LM | None = None,
    out: str | Path | None = None,
    config: ContrastConfig | None = None,
    progress: Progress = no_progress,
) -> ContrastFit:
    """Fit a steer from two descriptions, or from a prompt, and save it.

    Args:
        lm: the frozen model, which should be one that follows instructions.
        contrast: the two ends in words.
        name: name of the style dimension.
        label: what +1 means, in words, for the steer's card; by default the description of the positive end.
        subjects: what the texts are about; ``starter_subjects()`` by default.
        teacher: another model that writes the texts, such as a larger one; by default the model itself does.
        out: folder of the steer; ``steers/NAME`` if None.
        config: settings.
        progress: reports how far the fit is.

    Raises:
        DataError: another process fits a steer of this folder, there are fewer than four subjects, the descriptions do
            not fit the model, it writes nothing under them, its predictions under both are the same, what is kept of
            an interrupted fit is of another one, or a linear layer does not write to the stream.
        SteerError: the steer cannot be saved, or a pattern matches no site.
        ModelError: a site that no gradient reaches, or that a forward pass does not call once; or the weights of the
            model are split over processes.
        InterruptedWorkError: the user stopped the fit; the texts so far are kept.
    """
    lm.check_in_one_process("a fit from descriptions")
    config = config or ContrastConfig()
    folder = target_folder(name, out)
    subjects = list(subjects or starter_subjects())
    if len(subjects) < HELD_OUT_EVERY:
        raise DataError(f"{HELD_OUT_EVERY} subjects or more are needed, of which some are held out.")
    check_rank(config.rank, lm.hidden_size)
    places = sites_of_description(lm, config.sites)
    check_ranks([site for site in places if site], config.rank)
    prompts = contrast_prompts(lm, contrast, subjects, config.new_tokens)
    asked = contrast_prompts(teacher, contrast, subjects, config.new_tokens) if teacher else prompts
    kept = KeptTexts(_run(teacher or lm, asked, config, folder.with_name(f"{folder.name}.texts.partial")))
    with exclusive(folder), kept.until_done(resume=config.resume):
        effects = stream_effects(lm, [site for site in places if site and site.is_weight])
        for group in site_groups([site for site in places if site]):
            site_factors(lm, group, progress)  # what no gradient reaches is refused before anything is written
        texts = write_texts(teacher or lm, asked, config, progress, kept)
        if teacher:
            texts = taken_over(lm, prompts, teacher, texts, config.new_tokens)
        source = {"contrast": asdict(contrast), "texts": len(texts), **_setting(config)}
        source |= {"teacher": teacher.name} if teacher else {}
        card = lm.card(name, label=label or contrast.positive, data=source)
        steer, near = _solve(_Texts.of(lm, texts, progress), card, places, effects, config.rank)
        save_steer(steer, folder)
    first, other = (next((text.ids for text in texts if text.end == end), ()) for end in (1, -1))
    return ContrastFit(steer, folder, near, (lm.codec.decode(first), lm.codec.decode(other)))


def _run(lm: LM, prompts: Sequence[ContrastPrompts], config: ContrastConfig, folder: Path) -> Run:
    """The resumable run of the texts that ``lm`` writes after some prompts."""
    digest = hashlib.sha256(json.dumps([asdict(prompt) for prompt in prompts]).encode()).hexdigest()[:32]
    run = {"model": lm.fingerprint, "description": digest, "number_of_texts": config.texts, **_setting(config)}
    return Run(folder, run, "an interrupted fit")


def _setting(config: ContrastConfig) -> dict[str, int]:
    return {"new_tokens": config.new_tokens, "seed": config.seed}


@dataclass(frozen=True)
class _Texts:
    """The texts of a fit.

    Attributes:
        lm: the model that reads them.
        seen: the texts on most of the subjects.
        unseen: those on the others.
        progress: reports how far the reading is.
    """

    lm: LM
    seen: Sequence[ContrastText]
    unseen: Sequence[ContrastText]
    progress: Progress

    @classmethod
    def of(cls, lm: LM, texts: Sequence[ContrastText], progress: Progress) -> _Texts:
        """The texts, divided by subject.

        Raises:
            DataError: they are on too few subjects.
        """
        seen = [text for text in texts if text.subject % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
        unseen = [text for text in texts if text.subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
        if not seen or not unseen:
            raise DataError(f"{lm.name} wrote texts on too few subjects: let it write more.")
        return cls(lm, seen, unseen, progress)

    def regression(self, site: Site | None, steer: Steer | None) -> ShiftRegression:
        """The regression at a site, or at the head, of what a steer that acts before it leaves of the shift.

        Raises:
            DataError: the instructions change nothing, or the states are not finite numbers.
            ModelError: a forward pass does not go through the site exactly once.
        """
        lm, d = self.lm, self.lm.hidden_size
        regression = ShiftRegression.empty(site.inputs if site else d, d)
        for rows in read_texts(lm, self.seen, self.progress, site=site, steer=steer):
            regression.add(rows, None if site else lm.head.weight)
        if not bool(regression.product.isfinite().all()):
            raise DataError(f"the states of {lm.name} are not finite numbers: load it in another dtype.")
        if not float(regression.product.norm()) > 0:
            raise DataError(
                f"the predictions of {lm.name} are the same under both descriptions: it does not follow them. Use a "
                "model that follows instructions, or say in other words what the texts are like."
            )
        return regression

    def imitation(self, steer: Steer) -> Imitation:
        """How near a steer comes to the instructions on the other subjects, measured on some of their rows."""
        step = -(-sum(len(text.ids) for text in self.unseen) // _UNSEEN_ROWS)
        blocks = read_texts(self.lm, self.unseen, self.progress, steer=steer if steer.sites else None)
        rows = ContrastRows.join([block[::step] for block in blocks])
        return imitation(self.lm.head, rows, LowRank(steer.factors["A"], steer.factors["B"]))


def _solve(
    texts: _Texts, card: Card, places: Sequence[Site | None], effects: Mapping[str, float], rank: int | None
) -> tuple[Steer, Imitation]:
    """The steer that comes nearest to the instructions, place by place, and how near it comes on unseen subjects."""
    lm, steer, tokens = texts.lm, None, 0
    maps, shares = dict[str, LowRank](), dict[str, float]()
    for site in places:
        regression = texts.regression(site, steer)
        name = site.name if site else HEAD
        metric = site_factors(lm, [site], texts.progress)[name] if site else fisher_factors(lm)
        a, b, shares[name] = low_rank(regression.matrix() / effects.get(name, 1.0), metric, rank)
        maps[name], tokens = LowRank(a, b), regression.count
        steer = Steer("multiply", factors_of(maps, lm.hidden_size), lm.hidden_size, len(lm.head.weight), card)
    assert steer is not None
    near = texts.imitation(steer)
    of_sites = {name: {"rank": maps[name].a.shape[1], "rank_share": round(shares[name], 4)} for name in maps}
    settings = {
        "method": "contrast",
        "damping": DAMPING,
        **({"sites": of_sites} if steer.sites else {"rank_share": shares[HEAD]}),
        "tokens": tokens,
        "imitation": {name: round(value, 4) for name, value in asdict(near).items()},
    }
    return replace(steer, card=replace(card, fit=settings)), near
