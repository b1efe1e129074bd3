"""Ours beside the published loops, on this machine: a table, results/speed.json and docs/figures/scaling.svg.

python -m benchmarks [DATA]      DATA: a folder of sst5_train.jsonl.gz and sst2_dev.jsonl.gz, for what needs them
python -m benchmarks --line many_continuations --line steered      those anew, the others as they were
python -m benchmarks DATA --line fits                              the same of the fits of SST-5 texts
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.growth import Curve, FitOfTexts, curves, fits_of_texts
from benchmarks.measure import Line, Machine
from benchmarks.picture import draw
from benchmarks.results import PICTURES, check_known
from benchmarks.speed import LINES, STEPS, Bench, with_memory
from lmsteer.util.files import write_file

RESULTS = Path(__file__).parent / "results" / "speed.json"
PICTURE = PICTURES / "scaling.svg"


def main(
    data: Annotated[Path | None, typer.Argument(help="Folder of sst5_train and sst2_dev, for what needs them.")] = None,
    line: Annotated[list[str] | None, typer.Option(help="Measure this line alone, and keep the others.")] = None,
) -> None:
    """Measure every line, print the table, keep the figures."""
    check_known(line, [*(ways.__name__ for ways in LINES), "fits"])
    console, machine = Console(width=170), Machine.measured()
    results = _Results.read() if line else _Results(machine)
    with TemporaryDirectory() as folder:
        bench = Bench(machine, Path(folder))
        for number, ways in enumerate(LINES):
            if not line or ways.__name__ in line:
                results.lines[ways.__name__] = with_memory(ways(bench).measured(), number)
                console.print(_short(results.lines[ways.__name__]), highlight=False)
                results.write()
        if not line:
            results.curves = list(curves(bench))
    if data and (not line or "fits" in line):
        results.fits = list(fits_of_texts(data))
    results.write()
    lines, found = results.all_lines(), results.all_curves()
    console.print(_table(lines))
    console.print(
        f"{platform.processor() or platform.machine()}: {machine.matrix_rate / 1e9:.0f} GFLOP/s "
        f"({machine.torch_rate / 1e9:.0f} by torch's own product), {machine.bandwidth / 1e9:.0f} GB/s.",
        highlight=False,
    )
    if results.fits:
        draw(found, PICTURE)


@dataclass
class _Results:
    """What was measured; written whenever there is more of it."""

    machine: Machine
    lines: dict[str, Line] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)
    fits: list[FitOfTexts] = field(default_factory=list)

    @classmethod
    def read(cls) -> _Results:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        return cls(
            Machine(**found["machine"]),
            {name: Line(**line) for name, line in found["lines"].items()},
            [Curve(**curve) for curve in found["curves"]],
            [FitOfTexts(**fit) for fit in found["fits"]],
        )

    def write(self) -> None:
        write_file(RESULTS, json.dumps(asdict(self), indent=1) + "\n")

    def all_lines(self) -> list[Line]:
        step = self.lines["recipe_step"].naive
        return [*self.lines.values(), *(_line_of(fit, step) for fit in self.fits)]

    def all_curves(self) -> list[Curve]:
        return [*self.curves, *_curves_of(self.fits, self.lines["recipe_step"].naive)]


def _line_of(fit: FitOfTexts, step: float) -> Line:
    note = f"SST-2 dev: {fit.sign_accuracy:.1%} of signs, {fit.log_likelihood_gain:+.3f} nats; "
    note += f"published: {STEPS:,} x a step"
    return Line(f"a steer from {fit.texts:,} SST-5 texts", STEPS * step, fit.seconds, note=note, our_bytes=fit.peak)


def _curves_of(fits: Sequence[FitOfTexts], step: float) -> list[Curve]:
    if not fits:
        return []
    texts = [fit.texts for fit in fits]
    return [
        Curve("seconds of a fit", "texts", texts, [STEPS * step for _ in fits], [fit.seconds for fit in fits]),
        Curve("MB beside the model in a fit", "texts", texts, None, [fit.peak / 1e6 for fit in fits]),
    ]


def _short(line: Line) -> str:
    return f"{line.what}: {line.naive:.2f} s, {line.ours:.2f} s"


def _table(lines: list[Line]) -> Table:
    table = Table("", "published (s)", "ours (s)", "times", "share of the floor", "MB, published", "MB, ours", "")
    for line in lines:
        share = "" if line.share is None else f"{line.share:.0%}"
        memory = ["" if size is None else f"{size / 1e6:.0f}" for size in (line.naive_bytes, line.our_bytes)]
        table.add_row(
            line.what, f"{line.naive:,.2f}", f"{line.ours:.2f}", f"{line.ratio:.1f}", share, *memory, line.note
        )
    return table


if __name__ == "__main__":
    typer.run(main)
