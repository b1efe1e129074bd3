"""The report of the demo and its terminal output, from made-up results."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from lmsteer.demo import STRENGTHS, plot_curve, print_results, render_report
from lmsteer.evaluation.strength_curve import Point
from lmsteer.fitting.fit import Fit
from lmsteer.generation.generate import Continuation
from lmsteer.reading.held_out import HeldOutMetrics
from tiny import random_steer


@pytest.fixture
def rows() -> list[Continuation]:
    return [Continuation("Well,", f"<it is {s}>", {"sentiment": s}, 0, 4, -8.0) for s in STRENGTHS]


@pytest.fixture
def curve() -> list[Point]:
    """The scorer decided nothing at the lowest strength."""
    shares = [math.nan, 0.25, 0.5, 0.5, 0.75, 1.0, 1.0]
    return [
        Point(s, share, 0 if math.isnan(share) else 4, 4, 10 + abs(s), 4.0)
        for s, share in zip(STRENGTHS, shares, strict=True)
    ]


def test_the_report_shows_a_dash_where_the_scorer_decided_nothing(llama, rows, curve):
    fitted = Fit(
        random_steer(llama),
        HeldOutMetrics(8, 80, 0.1, 0.1, 0.1, 0.01, 0.9, 0.8, 0.95, 0.5, 0.0),
        Path("demo/sentiment"),
    )
    html = render_report(llama, fitted, rows, curve, seconds=1.0)
    assert "nan" not in html
    assert "– → 100\N{NO-BREAK SPACE}%" in html
    assert "&lt;it is 6.0&gt;" in html


def test_the_terminal_shows_it_as_well(rows, curve):
    console = Console(width=100, record=True)
    print_results(console, rows, curve)
    text = console.export_text()
    assert "nan" not in text
    assert "–" in text
    assert "25\N{NO-BREAK SPACE}%" in text


def test_the_plots_are_svg_and_the_same_on_a_rerun(curve):
    plots = plot_curve(curve)
    assert len(plots) == 2
    assert all(ElementTree.fromstring(plot).tag.endswith("svg") for plot in plots)
    assert plot_curve(curve) == plots
