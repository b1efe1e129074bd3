"""compare: methods side by side. One that fails does not end the others.

By default each method is measured in a process of its own, so that even one that runs out of memory ends only itself.
The result of a method is kept in its folder. A comparison that was stopped resumes from there, and methods that failed
are tried again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lmsteer.baselines.names import check_methods
from lmsteer.errors import DataError, InterruptedWorkError, LMSteerError
from lmsteer.evaluation.compare.config import ComparisonConfig
from lmsteer.evaluation.compare.results import RESULT_FILE, Comparison, MethodResult
from lmsteer.evaluation.compare.worker import fit_and_measure
from lmsteer.util.files import exclusive
from lmsteer.util.progress import Progress, no_progress
from lmsteer.util.run import resumable


class MethodError(LMSteerError):
    """A method could not be measured."""


# Measures a method of the comparison whose folder is the second argument, and saves its result below it.
Runner = Callable[[ComparisonConfig, Path, str], None]


def compare(
    config: ComparisonConfig,
    methods: Sequence[str],
    out: str | Path,
    progress: Progress = no_progress,
    *,
    runner: Runner | None = None,
) -> Comparison:
    """Measure methods.

    Args:
        config: what is measured.
        methods: names in ``METHODS``.
        out: folder of all results.
        progress: reports the methods.
        runner: measures a method; by default in a process of its own (``run_in_subprocess``).

    Raises:
        DataError: a method is unknown, there are none, the folder holds another comparison, or another process works in
            it.
        MethodError: no method could be measured.
        InterruptedWorkError: the user pressed Ctrl-C.
    """
    check_methods(methods)
    if not methods or not config.prompts:
        raise DataError("nothing to compare: give methods and prompts.")
    out, runner = Path(out), runner or run_in_subprocess
    failures: dict[str, str] = {}
    with exclusive(out):
        config.run(out).open()
        done = sum((out / method / RESULT_FILE).exists() for method in methods)
        with (
            resumable(f"Finished measurements are kept in {out}. Run the same command again to resume."),
            progress("comparing", len(methods), done) as step,
        ):
            for method in methods:
                if (out / method / RESULT_FILE).exists():
                    continue
                try:
                    runner(config, out, method)
                except InterruptedWorkError:
                    raise
                except LMSteerError as error:
                    failures[method] = str(error)
                step(1, method)
    if len(failures) == len(methods):
        reasons = " ".join(f"{method}: {reason}" for method, reason in failures.items())
        raise MethodError(f"no method could be measured. {reasons}")
    return Comparison([MethodResult.load(out / method) for method in methods if method not in failures], failures)


def run_in_process(config: ComparisonConfig, out: Path, method: str) -> None:
    """Measure a method in this process.

    Raises:
        LMSteerError: it cannot be measured.
    """
    fit_and_measure(config, method, out / method).save(out / method)


def run_in_subprocess(config: ComparisonConfig, out: Path, method: str) -> None:
    """Measure a method in a process of its own.

    Raises:
        MethodError: the process failed; the message is the last line of its output.
    """
    folder = out / method
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "lmsteer.evaluation.compare.worker",
        str(config.run(out).path),
        method,
        str(folder),
    ]
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(command, stderr=file, stdout=file, check=False).returncode
    if status == 0:
        return
    if status < 0:
        raise MethodError(f"the process was killed by signal {-status}, as systems do when memory is exhausted.")
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    raise MethodError(lines[-1] if lines else f"the process ended with status {status}.")
