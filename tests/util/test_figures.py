"""Figures have the same bytes on a rerun, in a format that the name of the file chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lmsteer.errors import DataError
from lmsteer.util.figures import figure_format, render_figure


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_a_figure_has_the_same_bytes_on_a_rerun(form):
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    assert render_figure(figure, form) == render_figure(figure, form)
    assert figure_format(Path(f"map.{form}")) == form


@pytest.mark.parametrize("name", ["map", "map.docx", "svg"])
def test_other_formats_are_refused(name):
    with pytest.raises(DataError, match="name it \\.svg, \\.png or \\.pdf"):
        figure_format(Path(name))
