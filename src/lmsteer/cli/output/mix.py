"""How a mix of steers is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import signed

if TYPE_CHECKING:
    from lmsteer.evaluation.interference import Interference
    from lmsteer.evaluation.mix_report import MixReport


def print_mix(out: Console, report: MixReport) -> None:
    """The strengths, how alike the steers are, and how they interfere if that was measured."""
    strengths = " ".join(f"{name}={signed(round(s, 3))}" for name, s in report.strengths.items())
    out.print(strengths, markup=False)
    names = [escape(name) for name in report.strengths]
    if report.cosines is not None:
        table = Table("", *names, title="how alike they are (cosine, in nats)", title_justify="left")
        for name, row in zip(names, report.cosines, strict=True):
            table.add_row(name, *(f"{cosine:+.2f}" for cosine in row))
        out.print(table)
    if report.interference is not None:
        _print_interference(out, report.interference)


def _print_interference(out: Console, measured: Interference) -> None:
    names = [escape(name) for name in measured.strengths]
    title = f"effect of each steer on each dimension, in nats ({measured.num_texts} continuations)"
    table = Table("", *names, title=title, title_justify="left")
    for name, row in zip(names, measured.alone.tolist(), strict=True):
        table.add_row(f"{name} alone", *(f"{value:+.2f}" for value in row))
    table.add_section()
    mixed = zip(measured.mixed.tolist(), measured.standard_errors.tolist(), strict=True)
    table.add_row("the mix", *(f"{value:+.2f} ± {error:.2f}" for value, error in mixed))
    table.add_row("share kept in the mix", *(f"{share:.0%}" for share in measured.kept.tolist()))
    out.print(table)
