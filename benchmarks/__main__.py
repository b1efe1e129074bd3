"""Ours beside the published loops, on this machine: a table, results/speed.json and docs/growth.svg.

python -m benchmarks [DATA]      DATA: a folder of sst5_train.jsonl.gz and sst2_dev.jsonl.gz, for what needs them
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.growth import Curve, FitOfTexts, curves, fits_of_texts
from benchmarks.measure import Line, Machine
from benchmarks.picture import draw
from benchmarks.speed import LINES, STEPS, Bench, with_memory
from lmsteer.files import replace_file

RESULTS = Path(__file__).parent / "results" / "speed.json"
PICTURE = Path(__file__).parent.parent / "docs" / "growth.svg"


def main() -> None:
    """Measure every line, print the table, keep the figures."""
    console, machine = Console(width=170), Machine.measured()
    lines: list[Line] = []
    with TemporaryDirectory() as folder:
        bench = Bench(machine, Path(folder))
        for number, ways in enumerate(LINES):
            lines.append(with_memory(ways(bench).measured(), number))
            console.print(_short(lines[-1]), highlight=False)
        found = list(curves(bench))
    step = lines[0].naive
    fits = list(fits_of_texts(Path(sys.argv[1]))) if len(sys.argv) > 1 else []
    lines += [_line_of(fit, step) for fit in fits]
    found += _curves_of(fits, step)
    console.print(_table(lines))
    console.print(
        f"{platform.processor() or platform.machine()}: {machine.matrix_rate / 1e9:.0f} GFLOP/s "
        f"({machine.torch_rate / 1e9:.0f} by torch's own product), {machine.bandwidth / 1e9:.0f} GB/s.",
        highlight=False,
    )
    _keep(machine, lines, found, fits)
    if fits:
        draw(found, PICTURE)


def _line_of(fit: FitOfTexts, step: float) -> Line:
    note = f"SST-2 dev: {fit.signs:.1%} of signs, {fit.gain:+.3f} nats; published: {STEPS:,} x a step"
    return Line(f"a steer from {fit.texts:,} SST-5 texts", STEPS * step, fit.seconds, note=note, our_bytes=fit.peak)


def _curves_of(fits: Sequence[FitOfTexts], step: float) -> list[Curve]:
    if not fits:
        return []
    texts = [fit.texts for fit in fits]
    return [
        Curve("seconds of a fit", "texts", texts, [STEPS * step for _ in fits], [fit.seconds for fit in fits]),
        Curve("MB beside the model in a fit", "texts", texts, None, [fit.peak / 1e6 for fit in fits]),
    ]


def _keep(machine: Machine, lines: list[Line], found: list[Curve], fits: list[FitOfTexts]) -> None:
    everything = {
        "machine": asdict(machine),
        "lines": [asdict(line) for line in lines],
        "curves": [asdict(curve) for curve in found],
        "fits": [asdict(fit) for fit in fits],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with replace_file(RESULTS) as aside:
        aside.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


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
    main()
