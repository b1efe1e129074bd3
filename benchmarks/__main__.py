"""Ours beside the published loops, on this machine: a table, and results/speed.json.

python -m benchmarks [DATA]      DATA: a folder of sst5_train.jsonl.gz and sst2_dev.jsonl.gz, for what needs them
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Line, Machine
from benchmarks.speed import Bench, memory_of_a_fit
from lmsteer.files import replace_file
from lmsteer.lm import load

RESULTS = Path(__file__).parent / "results" / "speed.json"


def main() -> None:
    """Measure every line, print the table, keep the figures."""
    console, lines = Console(width=150), []
    with TemporaryDirectory() as folder:
        lm, machine = load(), Machine.measured()
        bench = Bench(lm, machine, Path(folder))
        for line in bench.lines(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
            lines.append(line)
            console.print(f"{line.what}: {line.naive:.2f} s, {line.ours:.2f} s", highlight=False)
    memory = memory_of_a_fit()
    console.print(_table(lines))
    console.print(
        f"{platform.processor() or platform.machine()}: {machine.matrix_rate / 1e9:.0f} GFLOP/s, "
        f"{machine.bandwidth / 1e9:.0f} GB/s. A fit takes {memory / 1e6:.0f} MB beside the model."
    )
    found = {"machine": asdict(machine), "memory of a fit": memory, "lines": [asdict(line) for line in lines]}
    RESULTS.parent.mkdir(exist_ok=True)
    with replace_file(RESULTS) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _table(lines: list[Line]) -> Table:
    table = Table("", "published (s)", "ours (s)", "times", "share of the floor", "")
    for line in lines:
        share = "" if line.share is None else f"{line.share:.0%}"
        table.add_row(line.what, f"{line.naive:.2f}", f"{line.ours:.2f}", f"{line.ratio:.1f}", share, line.note)
    return table


if __name__ == "__main__":
    main()
