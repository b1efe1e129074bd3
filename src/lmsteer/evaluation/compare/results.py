"""The results of a comparison: what each method does to text, costs and needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError
from lmsteer.evaluation.metrics import is_degenerate
from lmsteer.evaluation.results import ConditionResult
from lmsteer.util.files import finite, write_file
from lmsteer.util.records import from_record, parse_json

# Text is sound if its perplexity is at most this multiple of that of unsteered text, and it is not degenerate.
SOUND = 1.5
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class LearningCurvePoint:
    """What a method reaches with fewer texts.

    Attributes:
        texts: number of texts.
        seed: seed of the random subset.
        max_increase: the largest increase of the mean score in sound text.
        max_decrease: the largest decrease.
        error: why the method cannot be fitted on these texts; empty if it can.
    """

    texts: int
    seed: int
    max_increase: float
    max_decrease: float
    error: str = ""


@dataclass(frozen=True)
class MethodResult:
    """The measurements of a method.

    Attributes:
        method: the method's name.
        capabilities: what its strength can be.
        parameters: number of stored parameters.
        bytes: their size on disk.
        context: number of tokens of the context that it takes.
        fit_seconds: time of the fit.
        peak_memory_bytes: peak memory by the end of the fit: allocated memory of the GPU, or the resident memory of the
            process; None where the system does not report it.
        time_per_token: time per token, as a multiple of the unsteered model's.
        time_to_first_token: time to the first token, as a multiple of the unsteered model's.
        conditions: results of its conditions: unsteered, then by strength.
        learning_curve: what it reaches with fewer texts, by number of texts and seed.
    """

    method: str
    capabilities: Mapping[str, bool]
    parameters: int
    bytes: int
    context: int
    fit_seconds: float
    peak_memory_bytes: int | None
    time_per_token: float
    time_to_first_token: float
    conditions: Sequence[ConditionResult]
    learning_curve: Sequence[LearningCurvePoint]

    @property
    def max_increase(self) -> float:
        """The largest increase of the mean score in sound text."""
        return score_range(self.conditions)[0]

    @property
    def max_decrease(self) -> float:
        """The largest decrease of the mean score in sound text."""
        return score_range(self.conditions)[1]

    def summary(self) -> dict[str, Any]:
        """Everything but the conditions and the learning curve, for a table."""
        left_out = ("conditions", "learning_curve")
        row = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        return {**row, "max_increase": self.max_increase, "max_decrease": self.max_decrease}

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return finite(asdict(self))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> MethodResult:
        """The result from its JSON object; null is nan.

        Raises:
            FormatError: a field is missing, or has another type of value.
        """
        return from_record(cls, record)

    def save(self, folder: Path) -> None:
        """Write ``result.json``.

        Raises:
            OutputError: the disk cannot be written.
        """
        write_file(folder / RESULT_FILE, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> MethodResult:
        """Read ``result.json``.

        Raises:
            DataError: it is missing or damaged.
        """
        file = folder / RESULT_FILE
        try:
            return cls.from_json(parse_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is damaged: {error}. Remove it, and run the same command again.") from error


@dataclass(frozen=True)
class Comparison:
    """The results of all methods.

    Attributes:
        methods: the methods that were measured.
        failures: for each of the others, why it was not, by name.
    """

    methods: Sequence[MethodResult]
    failures: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        return {
            "summary": [finite(each.summary()) for each in self.methods],
            "methods": [each.to_json() for each in self.methods],
            "failures": dict(self.failures),
        }


def score_range(results: Sequence[ConditionResult]) -> tuple[float, float]:
    """The largest increase and the largest decrease of the mean score against unsteered text, in sound text.

    Args:
        results: the unsteered condition, then those of a method.
    """
    base = results[0]
    likely = [each for each in results if each.perplexity.mean <= SOUND * base.perplexity.mean]
    sound = [each for each in likely if not is_degenerate(each.rep_3, base.rep_3)]
    up = [each.score.mean - base.score.mean for each in sound if each.strength >= 0]
    down = [base.score.mean - each.score.mean for each in sound if each.strength <= 0]
    return max(up, default=0.0), max(down, default=0.0)
