"""The closed form from few texts: some of them are read after others, which stand as examples in front of them.

The labelled gradient of sixty texts is mostly chance: W has d x d numbers, and each token of a text brings all that it
is about beside its style. But a model goes on in a manner that it has just read. So texts of the positive end become
one prompt, and as many of the negative end another, and at each token of other texts the difference that the examples
make takes the place of a label, as in a ``contrast``::

    G = E[h rᵀ],   r = Σ_v (p(v | h₊) - p(v | h₋)) e_v                                        (d, d)

where h is read without a prompt, h₊ after examples of the positive end and h₋ after those of the negative end. The
labelled gradient counts beside it, the more the more texts there are.

No text is held out. The texts are divided into folds, and those of a fold are read after examples of the other folds:
so there is a gradient of examples for each fold, and W is the step along the mean of them. For the figures on the card
each fold is read under the step that is taken without it. The scale gives W the length in the Fisher metric that steers
of thousands of texts have at strength 1: it costs the model as much text quality, however few the texts are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from lmsteer.data.labelled import FEW_TEXTS
from lmsteer.errors import DataError
from lmsteer.fitting.closed_form import DAMPING_2, DAMPINGS_1, NaturalGradient, Solution, SolutionSettings
from lmsteer.fitting.contrast.prompts import Ids
from lmsteer.fitting.statistics import Statistics
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.reading.after_prompt import AfterPrompt
from lmsteer.reading.encode import start_tokens
from lmsteer.reading.rows import LabelledRows
from lmsteer.util.linalg import weighted_product
from lmsteer.util.progress import Progress

# Of few texts, so many must lie on either side of the mean label.
LEAST = 4
FOLDS = 4
# The length of W at strength 1, with which the Fisher matrix prices it: that of the steers that ship, .05 to .08.
LENGTH = 0.06
# For each fold there are so many pairs of prompts, each of so many examples; so many of its texts are read after them.
_PROMPTS, _EXAMPLES, _READ = 4, 4, 32
# Of a text so many tokens count, as an example and as what is read after examples.
_TOKENS = 64
_SEPARATOR = "\n\n"


def has_few(statistics: Statistics) -> bool:
    """Whether statistics are of few texts, all of whose rows are kept."""
    counts = statistics.counts
    return statistics.texts < FEW_TEXTS and statistics.sample_rows == counts.tokens + counts.ends


@dataclass(frozen=True)
class FewTexts:
    """Few labelled texts.

    Attributes:
        rows: their rows.

    Raises:
        DataError: there are fewer than four texts on either side of the mean label.
    """

    rows: LabelledRows

    def __post_init__(self) -> None:
        above, below = (int((self._sides == side).sum()) for side in (1, -1))
        if min(above, below) < LEAST:
            raise DataError(
                f"too few texts: {above} have a label above the mean and {below} one below it, and a fit needs {LEAST} "
                "or more of either kind. Give more texts, or describe both ends in words (--positive and --negative)."
            )

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """The texts of statistics that have few.

        Raises:
            DataError: there are fewer than four texts on either side of the mean label.
        """
        return cls(LabelledRows.join([*statistics.sample, statistics.held_out]))

    @cached_property
    def _sides(self) -> Tensor:
        """+1 for each text whose label lies above the mean, -1 below it (N,), in order of digest."""
        _, labels = self.rows.texts()
        centred = labels - labels.mean()
        return centred.sign() * (centred.abs() > 1e-6)

    @cached_property
    def _folds(self) -> Tensor:
        """The fold of each text (N,): folds are alike in labels, and the texts of a group stay together."""
        index, _ = self.rows.texts()
        first = torch.zeros(len(self._sides), dtype=torch.int64).scatter_(0, index, self.rows.digest[:, 0])
        groups = first.tolist()
        side = dict.fromkeys(groups, 0.0)
        for group, value in zip(groups, self._sides.tolist(), strict=True):
            side[group] += value
        fold = {group: k % FOLDS for k, group in enumerate(sorted(side, key=lambda group: (side[group], group)))}
        return torch.tensor([fold[group] for group in groups])

    @cached_property
    def folds(self) -> list[LabelledRows]:
        """The rows of each fold."""
        of_rows = self._folds[self.rows.texts()[0]]
        return [self.rows[of_rows == fold] for fold in range(FOLDS)]

    def prompts(self, lm: LM, fold: int) -> list[tuple[Ids, Ids]]:
        """Pairs of prompts, of examples of the positive and of the negative end that are not in a fold."""
        before, length, rng = start_tokens(lm), _length(lm), random.Random(fold)
        sides = [((self._sides == s) & (self._folds != fold)).nonzero().flatten().tolist() for s in (1, -1)]
        count = min(_EXAMPLES, *map(len, sides))

        def prompt(side: Sequence[int]) -> list[int]:
            examples = (lm.codec.decode(self._ids[i][:length]).strip() for i in rng.sample(side, count))
            ids = lm.encode(["".join(example + _SEPARATOR for example in examples)])[0]
            return [*before, *ids[-(lm.max_length - length - len(before)) :]]

        return [(prompt(sides[0]), prompt(sides[1])) for _ in range(_PROMPTS)]

    def gradients(self, lm: LM, progress: Progress) -> list[Tensor]:
        """G (d, d) of each fold, whose texts are read after examples of the other folds."""
        gradients = []
        with progress("reading texts after others", FOLDS, 0) as step:
            for fold in range(FOLDS):
                gradients.append(self._gradient(lm, fold))
                step(1, "")
        return gradients

    def _gradient(self, lm: LM, fold: int) -> Tensor:
        length, chosen = _length(lm), (self._folds == fold).nonzero().flatten().tolist()[:_READ]
        h, r = list[Tensor](), list[Tensor]()
        for number, (positive, negative) in enumerate(self.prompts(lm, fold)):
            some = chosen if len(chosen) <= _PROMPTS else chosen[number::_PROMPTS]
            ids = [self._ids[i][:length] for i in some]
            target = torch.tensor([token for text in ids for token in text])
            after = (torch.cat(AfterPrompt(lm, prompt).states(ids)) for prompt in (negative, positive))
            # The residuals e_y - E[e] of one token after two prompts differ by what is expected after them.
            minus, plus = (lm.head.residuals(states, target)[0].cpu() for states in after)
            read = torch.cat([self._is_read(i)[:length] for i in some])
            h += [self._inside[i].h[: int(self._is_read(i)[:length].sum())] for i in some]
            r.append((minus - plus)[read])
        states, differences = torch.cat(h), torch.cat(r)
        count = len(states)
        return weighted_product(states, differences, torch.full((count,), 1 / max(count, 1), dtype=torch.float64))

    def _is_read(self, text: int) -> Tensor:
        """Which tokens of a text have a row (T,): all but the first, which none predicts unless a prompt is before."""
        read = torch.ones(len(self._ids[text]), dtype=torch.bool)
        read[: len(read) - len(self._inside[text])] = False
        return read

    @cached_property
    def _inside(self) -> list[LabelledRows]:
        """The rows of each text but that of its end, in order of digest."""
        index, labels = self.rows.texts()
        return [self.rows[(index == text) & ~self.rows.is_end] for text in range(len(labels))]

    @cached_property
    def _ids(self) -> list[list[int]]:
        """The ids of each text, without its end, in order of digest."""
        index, labels = self.rows.texts()
        firsts = [int(self.rows.first[index == text][0]) for text in range(len(labels))]
        return [[first] * (first >= 0) + own.target.tolist() for first, own in zip(firsts, self._inside, strict=True)]

    def labelled(self, without: int | None) -> tuple[Tensor, Tensor, int]:
        """``E[(s - s̄) h rᵀ]`` and ``E[h rᵀ]`` (d, d) of all texts but those of a fold, and their number."""
        rows = LabelledRows.join([fold for k, fold in enumerate(self.folds) if k != without])
        inside = rows[~rows.is_end]
        label = inside.label.double()
        weights = (label - label.mean()) / len(label), torch.full_like(label, 1 / len(label))
        gradient, domain = (weighted_product(inside.h, inside.r, weight) for weight in weights)
        return gradient, domain, len(rows.texts()[1])


def _length(lm: LM) -> int:
    """How many tokens of a text count, so that it and the examples before it fit in the model's context."""
    return min(_TOKENS, max(2, lm.max_length // (_EXAMPLES + 2)))


def solve_few(
    texts: FewTexts,
    gradients: Sequence[Tensor],
    fisher: FisherFactors,
    *,
    without: int | None = None,
    rank: int | None = None,
) -> Solution:
    """The step along the gradients of the examples and of the labels, of the length of a unit of strength.

    Args:
        texts: the texts.
        gradients: the gradient of the examples (d, d) for each fold.
        fisher: Fisher factors of the model.
        without: a fold that is left out; None for none.
        rank: rank of the steer; None chooses it from the spectrum.
    """
    dampings = DAMPINGS_1[-1], DAMPING_2
    of_examples = torch.stack(list(gradients)).mean(0) if without is None else gradients[without]
    of_labels, domain, count = texts.labelled(without)
    weights = [1.0, math.sqrt(count / FEW_TEXTS)]
    natural = NaturalGradient([of_examples, of_labels], fisher, domain, weights)
    a, b, rank_share = natural.truncated(*dampings, rank)
    scale = LENGTH / math.sqrt(fisher.inner((a, b), (a, b)))
    settings = SolutionSettings(
        damping_1=dampings[0], damping_2=dampings[1], scale=scale, rank_share=rank_share, credit_rows=0
    )
    root = math.sqrt(scale)
    return Solution({"A": (a * root).float().contiguous(), "B": (b * root).float().contiguous()}, settings)
