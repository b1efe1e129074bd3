"""Interference: the effect of each steer of a mix alone, and what is left of it in the mix.

Prompts are continued without a steer, under each steer alone, and under all of them. A reader of each dimension then
gives every continuation a number: by default the dimension's own steer reads its evidence from the text, in nats; any
other function of texts can take its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsteer.data.chats import AnyPrompt
from lmsteer.errors import DataError
from lmsteer.evaluation.protocol import INTERFERENCE_SAMPLES, Protocol
from lmsteer.evaluation.scorers.base import ScoreFunction
from lmsteer.generation.generate import generate
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import analyse
from lmsteer.reading.encode import encode_with_offsets
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

INTERFERENCE = Protocol(num_samples=INTERFERENCE_SAMPLES)


@dataclass(frozen=True)
class Interference:
    """How K steers of a mix change each other's effects.

    Attributes:
        strengths: the strengths of the steers in the mix, by name.
        alone: effect of each steer alone (row) on each dimension (column): the mean reading of its texts minus that of
            unsteered texts (K, K).
        mixed: effect of the mix on each dimension (K,).
        standard_errors: standard errors of ``mixed``, over prompts (K,).
        num_texts: number of continuations at each setting of the strengths.
    """

    strengths: dict[str, float]
    alone: Tensor
    mixed: Tensor
    standard_errors: Tensor
    num_texts: int

    @property
    def kept(self) -> Tensor:
        """Share of its own effect that each steer keeps in the mix (K,)."""
        return self.mixed / self.alone.diagonal()


def interference(
    lm: LM,
    mix: Mix,
    prompts: Sequence[AnyPrompt],
    *,
    readers: Mapping[str, ScoreFunction] | None = None,
    protocol: Protocol = INTERFERENCE,
    progress: Progress = no_progress,
) -> Interference:
    """Measure the interference of a mix.

    Args:
        lm: the base of the steers.
        mix: two steers or more. Each has one strength for all rows, other than 0.
        prompts: prompts to continue.
        readers: functions that read a dimension, by the name of its steer; the steer itself reads the others.
        protocol: how continuations are generated: 4 of 20 tokens for each prompt and setting by default.
        progress: reports the work.

    Raises:
        DataError: less than two steers, a strength of 0 or one for each row, a reader of an unknown name, or input that
            ``generate`` refuses.
        WrongBaseError: a steer was fitted on another base.
    """
    readers = readers or {}
    _check(mix, readers)
    strengths = dict(zip(mix.steers, mix.strengths[0].tolist(), strict=True))
    unsteered = dict.fromkeys(strengths, 0.0)
    settings = [unsteered, *({**unsteered, name: s} for name, s in strengths.items()), strengths]
    rows = generate(
        lm,
        prompts,
        mix.steers,
        settings,
        protocol.generation_config(),
        progress=progress,
    )
    by_name = _read(lm, mix, readers, [row.text for row in rows], progress)
    # The texts are in order of prompt, then setting, then sample.
    shape = (len(prompts), len(settings), protocol.num_samples)
    readings = torch.stack([by_name[name].reshape(shape).mean(2).T for name in mix.steers], 2)
    effects = readings - readings[:1]  # (K + 2, prompts, K)
    means = effects.mean(1)
    errors = effects[-1].std(0) / len(prompts) ** 0.5
    return Interference(strengths, means[1:-1], means[-1], errors, len(prompts) * protocol.num_samples)


def _check(mix: Mix, readers: Mapping[str, ScoreFunction]) -> None:
    if len(mix.steers) < 2 or len(mix.strengths) != 1 or not mix.strengths.all():
        raise DataError("interference needs two steers or more, each at one strength other than 0.")
    if unknown := set(readers) - set(mix.steers):
        raise DataError(f"there are readers for {', '.join(sorted(unknown))}, which the mix has no steers of.")


def _read(
    lm: LM, mix: Mix, readers: Mapping[str, ScoreFunction], texts: Sequence[str], progress: Progress
) -> dict[str, Tensor]:
    """Readings (N,) of all texts, by dimension."""
    steers = {name: steer for name, steer in mix.steers.items() if name not in readers}
    readings = dict(zip(steers, steer_evidence(lm, steers, texts, progress=progress), strict=True)) if steers else {}
    return readings | {name: torch.tensor(list(read(texts)), dtype=torch.float64) for name, read in readers.items()}


def steer_evidence(
    lm: LM, steers: Mapping[str, Steer], texts: Sequence[str], *, progress: Progress = no_progress
) -> Tensor:
    """Evidence (K, N), in nats, of each of K steers in each of N texts; that of an empty text is 0."""
    with_tokens = [
        number for number, text in enumerate(texts) if encode_with_offsets(lm, text, start=True, end=True).ids
    ]
    evidence = torch.zeros(len(steers), len(texts), dtype=torch.float64)
    analyses = analyse(
        lm, [texts[number] for number in with_tokens], steers, strengths=(0.0,), spans=0, progress=progress
    )
    for number, analysis in zip(with_tokens, analyses, strict=True):
        scores = [dimension.position.score for dimension in analysis.dimensions.values()]
        evidence[:, number] = torch.tensor(scores, dtype=torch.float64)
    return evidence
