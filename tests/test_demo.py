"""The report of the demo and its terminal output, from made-up results."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from lmsteer.data.chats import Chat
from lmsteer.demo.dial import Dial
from lmsteer.demo.report import plot_curves, render_report
from lmsteer.demo.terminal import print_dial
from lmsteer.evaluation.strength_curve import Point
from lmsteer.generation.generate import Continuation
from tiny import random_steer

STRENGTHS = (-2.0, 0.0, 2.0)


@pytest.fixture
def dials(llama) -> tuple[Dial, Dial]:
    """The scorer decided nothing at the lowest strength."""
    curve = [Point(s, share, 4, 4, 10 + abs(s), 4.0) for s, share in zip(STRENGTHS, (math.nan, 0.5, 1.0), strict=True)]
    steer = random_steer(llama)
    data = {"contrast": {"positive": "<b>warm", "negative": "cold", "role": "user"}, "texts": 8}

    def dial(name: str, prompt: str | Chat) -> Dial:
        shown = [Continuation(prompt, f"<it is\n{s}>", {name: s}, 0, 4, -8.0) for s in STRENGTHS]
        return Dial(replace(steer, card=replace(steer.card, name=name, data=data)), Path(name), 9.6, shown, curve)

    return dial("warmth", Chat.of_user("How <are> you?")), dial("sentiment", "Well,")


def test_the_report_shows_both_steers_and_a_dash_where_the_scorer_decided_nothing(llama, dials):
    html = render_report(llama, *dials)
    assert "nan" not in html
    assert "– → 100\N{NO-BREAK SPACE}%" in html
    assert html.count("&lt;it is 2.0&gt;") == 2
    assert "How &lt;are&gt; you?" in html
    assert "Well, …" in html
    assert "&lt;b&gt;warm" in html


def test_the_terminal_shows_it_as_well(dials):
    console = Console(width=100, record=True)
    print_dial(console, dials[0])
    text = console.export_text()
    assert "nan" not in text
    assert "–" in text
    assert "50\N{NO-BREAK SPACE}%" in text
    assert "made in 10 s" in text


def test_the_plots_are_svg_and_the_same_on_a_rerun(dials):
    plots = plot_curves(dials)
    assert len(plots) == 2
    assert all(ElementTree.fromstring(plot).tag.endswith("svg") for plot in plots)
    assert plot_curves(dials) == plots
