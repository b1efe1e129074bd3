"""Pictures: figures as files that are the same on a rerun."""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
from matplotlib.figure import Figure

# What each format would write of the day it was drawn on.
_DATES = {"svg": "Date", "pdf": "CreationDate"}


def render_figure(figure: Figure, form: str = "svg") -> bytes:
    """A figure as a file of a form (``svg``, ``png``, ``pdf``), the same bytes whenever it is drawn."""
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "lmsteer"}):
        figure.savefig(buffer, format=form, metadata={_DATES[form]: None} if form in _DATES else None)
    return buffer.getvalue()
