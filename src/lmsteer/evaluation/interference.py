"""Interference: what each steer of a mix does alone, and what is left of that in the mix.

Prompts are continued without a steer, under each steer alone, and under all of them; every dimension is then read from
every continuation. A dimension's reader is its own steer, by the evidence of the text in nats, or any judge of texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.evaluation.scorers.base import Scores
from lmsteer.generation.config import GenerationConfig
from lmsteer.generation.generate import generate
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import analyse
from lmsteer.reading.words import encode_to_read
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress


@dataclass(frozen=True)
class Interference:
    """How K steers of a mix get in each other's way.

    Attributes:
        strengths: of the steers in the mix, by name.
        alone: what each steer alone (row) does to each dimension (column): its mean reading less that of unsteered
            text (K, K).
        mixed: what the mix does to each dimension (K,).
        errors: standard errors of ``mixed``, over prompts (K,).
        texts: continuations a setting.
    """

    strengths: dict[str, float]
    alone: Tensor
    mixed: Tensor
    errors: Tensor
    texts: int

    @property
    def kept(self) -> Tensor:
        """Share of its own effect that each steer keeps in the mix (K,)."""
        return self.mixed / self.alone.diagonal()


def interference(
    lm: LM,
    mix: Mix,
    prompts: Sequence[str],
    *,
    readers: Mapping[str, Scores] | None = None,
    n: int = 4,
    max_new_tokens: int = 24,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Interference:
    """Measure the interference of a mix.

    Args:
        lm: the model.
        mix: two steers or more, with strengths that are one for all rows and none of them 0.
        prompts: to continue.
        readers: of dimensions, by the steers' names; those not named are read by their steer.
        n: continuations a prompt and setting.
        max_new_tokens: of each.
        seed: of the draws, which are the same for every setting.
        progress: what to tell of the work.

    Raises:
        DataError: less than two steers, strengths row by row or 0, readers of other names, or what ``generate``
            refuses.
        WrongBaseError: a steer of another base.
    """
    if len(mix.steers) < 2 or len(mix.strengths) != 1 or not mix.strengths.all():
        raise DataError("interference is of two steers or more, each at one strength other than 0.")
    if unknown := set(readers or {}) - set(mix.steers):
        raise DataError(f"readers of {', '.join(sorted(unknown))}, which are no steers of the mix.")
    strengths = dict(zip(mix.steers, mix.strengths[0].tolist(), strict=True))
    nothing = dict.fromkeys(strengths, 0.0)
    settings = [nothing, *({**nothing, name: s} for name, s in strengths.items()), strengths]
    rows = list(
        generate(lm, prompts, mix.steers, settings, GenerationConfig(n, max_new_tokens, seed=seed), progress=progress)
    )
    texts, readers = [row.text for row in rows], readers or {}
    own = {name: steer for name, steer in mix.steers.items() if name not in readers}
    found = dict(zip(own, own_readings(lm, own, texts, progress=progress), strict=True)) if own else {}
    found |= {name: torch.tensor(list(read(texts)), dtype=torch.float64) for name, read in readers.items()}
    # By prompt, then setting, then sample, as they were written.
    readings = torch.stack([found[name].reshape(len(prompts), len(settings), n).mean(2).T for name in mix.steers], 2)
    effects = readings - readings[:1]  # (K + 2, prompts, K)
    means = effects.mean(1)
    errors = effects[-1].std(0) / len(prompts) ** 0.5
    return Interference(strengths, means[1:-1], means[-1], errors, len(prompts) * n)


def own_readings(
    lm: LM, steers: Mapping[str, Steer], texts: Sequence[str], *, progress: Progress = no_progress
) -> Tensor:
    """The evidence (K, N) that each text is of each steer's dimension, in nats; that of nothing is 0."""
    told = [number for number, text in enumerate(texts) if encode_to_read(lm, text)[0]]
    found = torch.zeros(len(steers), len(texts), dtype=torch.float64)
    analyses = analyse(lm, [texts[number] for number in told], steers, strengths=(0.0,), spans=0, progress=progress)
    for number, analysis in zip(told, analyses, strict=True):
        scores = [dimension.position.score for dimension in analysis.dimensions.values()]
        found[:, number] = torch.tensor(scores, dtype=torch.float64)
    return found
