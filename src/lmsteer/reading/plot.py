"""A plot of the words that the first two components of a steer move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lmsteer.errors import DataError
from lmsteer.reading.components import Component
from lmsteer.util.figures import figure_format, render_figure
from lmsteer.util.files import write_file

_BELOW, _ABOVE = "#b4462f", "#1f7a5a"


def save_plot(components: Sequence[Component], file: Path) -> None:
    """Plot the words at the ends of the first two components to a file, in the format of its suffix.

    Raises:
        DataError: a format that is not supported, fewer than two components, or a file that cannot be written.
    """
    image_format = figure_format(file)
    write_file(file, render_figure(plot_components(components), image_format))


def plot_components(components: Sequence[Component]) -> Figure:
    """Plot the words at the ends of the first two components: each at the changes of its logit at strength 1.

    Raises:
        DataError: fewer than two components, or no words.
    """
    if len(components) < 2:
        raise DataError("a plot needs two components; this steer has one.")
    first, second = components[:2]
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)  # it measures the words
    axes = figure.subplots()
    axes.axhline(0, color="#98a2b3", linewidth=1)
    axes.axvline(0, color="#98a2b3", linewidth=1)
    axes.set(xlabel=_axis_label("first", first), ylabel=_axis_label("second", second))
    axes.spines[["top", "right"]].set_visible(False)
    words = {word.token: word.text for c in (first, second) for end in (c.upper, c.lower) for word in end}
    places = [(float(first.logits[token]), float(second.logits[token]), text) for token, text in words.items()]
    if not places:
        raise DataError("the components move no whole words: there is nothing to plot.")
    _write(figure, axes, sorted(places, key=lambda place: -abs(place[0]) - abs(place[1])))
    return figure


def _write(figure: Figure, axes: Axes, places: Sequence[tuple[float, float, str]]) -> None:
    """Write words at their places, most moved first; a word that would overlap becomes a dot."""
    right, top = 1.15 * max(abs(x) for x, _, _ in places), 1.15 * max(abs(y) for _, y, _ in places)
    axes.set(xlim=(-right, right), ylim=(-top, top))
    figure.draw_without_rendering()
    taken: list[Bbox] = []
    for x, y, text in places:
        colour = _ABOVE if x > 0 else _BELOW
        written = axes.text(x, y, text, color=colour, ha="center", va="center", fontsize=9)
        box = written.get_window_extent()
        if box.count_overlaps(taken):
            written.remove()
            axes.plot(x, y, ".", color=colour, markersize=3, alpha=0.5)
        else:
            taken.append(box)


def _axis_label(which: str, component: Component) -> str:
    return f"{which} component ({component.share:.0%}): logits at strength 1"
