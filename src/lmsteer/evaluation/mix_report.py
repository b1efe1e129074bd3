"""The report of a mix: its strengths, how alike its steers are, and how they interfere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmsteer.evaluation.interference import Interference
from lmsteer.model.fisher import FisherFactors
from lmsteer.steer.algebra import cosines, overlaps
from lmsteer.steer.mix import Mix


@dataclass(frozen=True)
class MixReport:
    """What is known of a mix of K steers.

    Attributes:
        strengths: strengths of the steers, by name.
        cosines: cosines between the steers' effects on the model (K, K); None if a steer has no matrix.
        interference: effects that were measured on generated text, if they were.
    """

    strengths: dict[str, float]
    cosines: list[list[float]] | None
    interference: Interference | None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        report: dict[str, Any] = {"strengths": {name: round(s, 6) for name, s in self.strengths.items()}}
        if self.cosines is not None:
            report["cosines"] = self.cosines
        if self.interference is not None:
            report |= {"effects": _effects(self.interference), "continuations": self.interference.num_texts}
        return report


def mix_report(mix: Mix, fisher: FisherFactors, interference: Interference | None = None) -> MixReport:
    """Compare the steers of a mix, which has one strength of each for all rows."""
    steers = [*mix.steers.values()]
    has_matrices = all(steer.form == "multiply" and not steer.sites for steer in steers)
    return MixReport(
        dict(zip(mix.steers, mix.strengths[0].tolist(), strict=True)),
        cosines(overlaps(steers, fisher)).tolist() if has_matrices else None,
        interference,
    )


def _effects(measured: Interference) -> dict[str, Any]:
    """What each steer does alone, and what is left of it in the mix, by the name of its dimension."""
    names = list(measured.strengths)
    columns = zip(
        names,
        measured.alone.tolist(),
        measured.mixed.tolist(),
        measured.standard_errors.tolist(),
        measured.kept.tolist(),
        strict=True,
    )
    return {
        name: {
            "alone": dict(zip(names, alone, strict=True)),
            "mixed": mixed,
            "standard_error": error,
            "kept": kept,
        }
        for name, alone, mixed, error, kept in columns
    }
