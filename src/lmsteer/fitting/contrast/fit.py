"""fit_contrast: from two descriptions, or a prompt, to a steer on disk. No labelled text is needed.

::

    descriptions ──> prompts ──the model writes──> texts ──read after each prompt──> hidden states ──> W ──> steer

The model writes short texts under both instructions. The steer is the linear map that comes nearest to the shift that
the instructions make of the hidden state at each of their tokens (``regression``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lmsteer.data.contrast import Contrast
from lmsteer.data.starter import starter_subjects
from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import check_rank
from lmsteer.fitting.contrast.config import HELD_OUT_EVERY, ContrastConfig
from lmsteer.fitting.contrast.imitation import Imitation, imitation
from lmsteer.fitting.contrast.prompts import contrast_prompts
from lmsteer.fitting.contrast.regression import DAMPING, ShiftRegression, low_rank
from lmsteer.fitting.contrast.rows import ContrastRows, read_texts
from lmsteer.fitting.contrast.writing import ContrastText, taken_over, write_texts
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.lm import LM
from lmsteer.steer.files import save_steer
from lmsteer.steer.lookup import target_folder
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

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
    if teacher is None:
        texts = write_texts(lm, prompts, config.texts, config.new_tokens, config.seed, progress)
    else:
        asked = contrast_prompts(teacher, contrast, subjects, config.new_tokens)
        written = write_texts(teacher, asked, config.texts, config.new_tokens, config.seed, progress)
        texts = taken_over(lm, prompts, teacher, written, config.new_tokens)
    regression, unseen = _read(lm, texts, progress)
    a, b, rank_share = low_rank(regression.matrix(), fisher_factors(lm), config.rank)
    factors = {name: factor.float().contiguous() for name, factor in (("A", a), ("B", b))}
    near = imitation(lm.head, unseen, (factors["A"], factors["B"]))

    settings = {
        "method": "contrast",
        "damping": DAMPING,
        "rank_share": rank_share,
        "tokens": regression.count,
        "imitation": {name: round(value, 4) for name, value in asdict(near).items()},
    }
    source = {"contrast": asdict(contrast), "texts": len(texts), "new_tokens": config.new_tokens, "seed": config.seed}
    source |= {"teacher": teacher.name} if teacher else {}
    card = lm.card(name, label=label or contrast.positive, data=source, fit=settings)
    vocabulary, hidden_size = lm.head.weight.shape
    steer = Steer("multiply", factors, hidden_size, vocabulary, card)
    save_steer(steer, folder)
    first, other = (next((text.ids for text in texts if text.end == end), ()) for end in (1, -1))
    return ContrastFit(steer, folder, near, (lm.codec.decode(first), lm.codec.decode(other)))


def _read(lm: LM, texts: Sequence[ContrastText], progress: Progress) -> tuple[ShiftRegression, ContrastRows]:
    """The regression on most of the subjects, and some rows on the others.

    Raises:
        DataError: the texts are on too few subjects, or the instructions change nothing.
    """
    regression, unseen = ShiftRegression.empty(lm.hidden_size), list[ContrastRows]()
    is_unseen = [text.subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for text in texts]
    step = -(-sum(len(text.ids) for text, held_out in zip(texts, is_unseen, strict=True) if held_out) // _UNSEEN_ROWS)
    for rows in read_texts(lm, texts, progress):
        held_out = rows.subject % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        regression.add(rows[~held_out], lm.head.weight)
        unseen.append(rows[held_out.nonzero()[:: max(step, 1), 0]])
    if not regression.count or not any(map(len, unseen)):
        raise DataError(f"{lm.name} wrote texts on too few subjects: let it write more.")
    if not float(regression.product.norm()) > 0:
        raise DataError(
            f"the predictions of {lm.name} are the same under both descriptions: it does not follow them. Use a model "
            "that follows instructions, or say in other words what the texts are like."
        )
    return regression, ContrastRows.join(unseen)
