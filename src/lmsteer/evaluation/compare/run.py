"""compare: methods side by side, each measured in a process of its own, so that one that fails does not end the others.

What a method has done is kept in its folder; a comparison that was stopped goes on from there, and a method that failed
is tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsteer.baselines.methods import METHODS
from lmsteer.errors import DataError, InterruptedWorkError
from lmsteer.evaluation.compare.worker import ComparisonConfig, MethodResult
from lmsteer.evaluation.run_config import settle
from lmsteer.util.files import exclusive
from lmsteer.util.progress import Progress, no_progress

_PLAN, _FOUND = "plan.json", "contender.json"


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        contenders: those that were measured.
        failures: why the others were not, by method.
    """

    contenders: Sequence[MethodResult]
    failures: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """A summary of each method, all results, and failures."""
        return {
            "summary": [each.figures() for each in self.contenders],
            "methods": [each.to_json() for each in self.contenders],
            "failures": self.failures,
        }


def compare(
    plan: ComparisonConfig, methods: Sequence[str], out: str | Path, progress: Progress = no_progress
) -> Comparison:
    """Measure methods.

    Args:
        plan: what is measured.
        methods: by their names in ``METHODS``.
        out: folder of everything that is kept.
        progress: what to tell of the work.

    Raises:
        DataError: an unknown method, none at all, a folder of another comparison, or another process that works on it.
        InterruptedWorkError: the user stopped it.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise DataError(f"unknown methods {', '.join(unknown)}: there are {', '.join(METHODS)}.")
    if not methods or not plan.prompts:
        raise DataError("nothing to compare: give methods and prompts.")
    out = Path(out)
    failures: dict[str, str] = {}
    with exclusive(out):
        settle(out, _PLAN, plan.to_json(), "a comparison")
        done = sum((out / method / _FOUND).exists() for method in methods)
        with progress("comparing", len(methods), done) as step:
            for method in methods:
                if not (out / method / _FOUND).exists():
                    if (why := _run(out, method)) is not None:
                        failures[method] = why
                    step(1, method)
    return Comparison([_read(out / method / _FOUND) for method in methods if method not in failures], failures)


def _run(out: Path, method: str) -> str | None:
    """Measure one method; the reason if that failed."""
    command = [sys.executable, "-m", "lmsteer.evaluation.compare.worker", str(out / _PLAN), method, str(out / method)]
    (out / method).mkdir(parents=True, exist_ok=True)
    said = out / method / "said.txt"
    try:
        with said.open("w", encoding="utf-8") as file:
            status = subprocess.run(command, stderr=file, stdout=file, check=False).returncode
    except KeyboardInterrupt:
        raise InterruptedWorkError(
            f"interrupted; what was measured is kept in {out}. The same command goes on from there."
        ) from None
    if status == 0:
        return None
    lines = [line for line in said.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if status < 0:
        return f"killed by signal {-status}, as systems do to what needs more memory than there is"
    return lines[-1] if lines else f"ended with status {status}"


def _read(file: Path) -> MethodResult:
    try:
        return MethodResult.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}. Remove it, and the same command measures it anew.") from error
