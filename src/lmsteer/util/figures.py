"""Figures: files that have the same bytes on a rerun. matplotlib is imported when a figure is drawn."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lmsteer.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("svg", "png", "pdf")
# The metadata field in which a format would record the day.
_DATES = {"svg": "Date", "pdf": "CreationDate"}


def figure_format(file: Path) -> str:
    """The format of a figure, by the name of its file.

    Raises:
        DataError: the name ends in no known format.
    """
    name = file.suffix.removeprefix(".")
    if name not in _FORMATS:
        raise DataError(f"cannot draw to {file}: name it .{', .'.join(_FORMATS[:-1])} or .{_FORMATS[-1]}.")
    return name


def render_figure(figure: Figure, form: str = "svg") -> bytes:
    """A figure as the content of an ``svg``, ``png`` or ``pdf`` file; the same bytes whenever it is drawn."""
    import matplotlib as mpl

    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "lmsteer"}):
        figure.savefig(buffer, format=form, metadata={_DATES[form]: None} if form in _DATES else None)
    return buffer.getvalue()
