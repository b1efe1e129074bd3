"""fit_contrast: from two descriptions, or a prompt, to a steer on disk. No labelled text is needed.

::

    descriptions ──> prompts ──the model writes──> texts ──read after each prompt──> rows ──> G ──> W ──> steer

The model writes short texts under both instructions. At each of their tokens, what the instructions change of its
prediction takes the place of a label (``rows``). The rest is the closed form of labelled texts: one damped
natural-gradient step, whose scale is such that strength 1 does what the instruction does, as far as a linear map can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import NaturalGradient, check_rank
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.fitting.contrast.prompts import contrast_prompts
from lmsteer.fitting.contrast.rows import ContrastRows, read_texts
from lmsteer.fitting.contrast.scale import Imitation, nearest_scale
from lmsteer.fitting.contrast.writing import write_texts
from lmsteer.fitting.credit_assignment import weighted_product
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.steer.files import save_steer
from lmsteer.steer.lookup import target_folder
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

_DAMPINGS = (10.0, 0.3)
# Rows that the scale is chosen on.
_SCALE_ROWS = 768


@dataclass(frozen=True)
class ContrastFit:
    """The result of a fit from descriptions.

    Attributes:
        steer: the steer.
        folder: the folder that it was saved to.
        divergence: how far the predictions under both instructions differ, KL(p₊ ‖ p₋) in nats a token. Where it is
            near 0, the model does not follow the instructions.
        imitation: how near strength 1 comes to the instructions.
        samples: the first text that the model wrote for either end.
    """

    steer: Steer
    folder: Path
    divergence: float
    imitation: Imitation
    samples: tuple[str, str]


def fit_contrast(
    lm: LM,
    contrast: Contrast,
    *,
    name: str,
    label: str = "",
    subjects: Sequence[str] = (),
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
        out: folder of the steer; ``steers/NAME`` if None.
        config: settings.
        progress: reports how far the fit is.

    Raises:
        DataError: there are fewer than four subjects, the descriptions do not fit the model, it writes nothing under
            them, or its predictions under both are the same.
        SteerError: the steer cannot be saved.
    """
    config = config or ContrastConfig()
    folder = target_folder(name, out)
    subjects = list(subjects or starter_subjects())
    if len(subjects) < HELD_OUT_EVERY:
        raise DataError(f"{HELD_OUT_EVERY} subjects or more are needed, of which some are held out.")
    check_rank(config.rank, lm.hidden_size)
    prompts = contrast_prompts(lm, contrast, subjects, config.new_tokens)
    fisher = fisher_factors(lm)
    texts = write_texts(lm, prompts, config.texts, config.new_tokens, config.seed, progress)
    rows = read_texts(lm, texts, progress)
    held_out = rows.subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    seen, unseen = rows[~held_out], rows[held_out]
    if not len(seen) or not len(unseen):
        raise DataError(f"{lm.name} wrote texts on too few subjects: let it write more.")

    solution = _solve(lm, fisher, seen, unseen, config.rank, both=not contrast.is_one_sided)
    source = {"contrast": asdict(contrast), "texts": len(texts), "new_tokens": config.new_tokens, "seed": config.seed}
    card = lm.card(name, label=label or contrast.positive, data=source, fit=solution.settings)
    vocabulary, hidden_size = lm.head.weight.shape
    steer = Steer("multiply", solution.factors, hidden_size, vocabulary, card)
    save_steer(steer, folder)
    first, other = (next((text.ids for text in texts if text.end == end), ()) for end in (1, -1))
    samples = lm.codec.decode(first), lm.codec.decode(other)
    return ContrastFit(steer, folder, solution.divergence, solution.imitation, samples)


@dataclass(frozen=True)
class _Solution:
    """A, B (d, r) at the unit of strength, how they were chosen, and what they do."""

    factors: dict[str, Tensor]
    settings: dict[str, Any]
    divergence: float
    imitation: Imitation


def _solve(
    lm: LM, fisher: FisherFactors, seen: ContrastRows, unseen: ContrastRows, rank: int | None, *, both: bool
) -> _Solution:
    """One damped natural-gradient step on the seen subjects, at the scale that is best on the unseen ones."""
    gradient, divergence = _gradient(lm, seen)
    a, b, rank_share = NaturalGradient([gradient], fisher).truncated(*_DAMPINGS, rank)
    length = math.sqrt(fisher.inner((a, b), (a, b)))
    scale, imitation = nearest_scale(lm.head, _some(unseen), (a, b), length, both=both)
    settings = {
        "method": "contrast",
        "damping_1": _DAMPINGS[0],
        "damping_2": _DAMPINGS[1],
        "scale": scale,
        "rank_share": rank_share,
        "tokens": len(seen),
        "divergence": round(divergence, 4),
        "imitation": {name: round(value, 4) for name, value in asdict(imitation).items()},
    }
    factors = {name: (factor * math.sqrt(scale)).float().contiguous() for name, factor in (("A", a), ("B", b))}
    return _Solution(factors, settings, divergence, imitation)


def _gradient(lm: LM, rows: ContrastRows) -> tuple[Tensor, float]:
    """``E[h rᵀ]`` (d, d) in float64, and the mean divergence of both ends in nats a token.

    Raises:
        DataError: both ends are the same.
    """
    r, divergence = lm.head.contrasts(rows.neutral, rows.positive, rows.negative)
    gradient = weighted_product(rows.neutral, r.cpu(), torch.full((len(rows),), 1 / len(rows), dtype=torch.float64))
    if not float(gradient.norm()) > 0:
        raise DataError(
            f"the predictions of {lm.name} are the same under both descriptions: it does not follow them. Use a model "
            "that follows instructions, or say in other words what the texts are like."
        )
    return gradient, float(divergence.mean())


def _some(rows: ContrastRows) -> ContrastRows:
    """Rows for the choice of the scale, spread evenly over the texts."""
    return rows[torch.arange(0, len(rows), max(1, -(-len(rows) // _SCALE_ROWS)))]
