"""The command ``components``: what a steer consists of, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.components import print_components
from lmsteer.cli.steering import parse_steering
from lmsteer.errors import DataError
from lmsteer.steer.lookup import find_card
from lmsteer.util.figures import figure_format
from lmsteer.util.files import check_writable


@app.command()
def components(
    steer: Annotated[
        list[str],
        typer.Argument(
            metavar="STEER...", help="Name or folder of a steer; several, as NAME=STRENGTH, are shown as one."
        ),
    ],
    compare: Annotated[
        str | None, typer.Option(metavar="STEER", help="Another steer, shown side by side (default: none).")
    ] = None,
    compare_model: Annotated[
        str | None,
        typer.Option(
            callback=options.existing_model,
            metavar="MODEL",
            help="Model of the steer of --compare (default: that of --model).",
        ),
    ] = None,
    num_components: Annotated[
        int, typer.Option("--components", min=1, help="Maximum number of components to show.")
    ] = 5,
    words: Annotated[int, typer.Option(min=1, help="Maximum number of words at each end of a component.")] = 12,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a map of the words to a .svg, .png or .pdf file.")
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Show the words that a steer makes likelier and less likely, by component.

    Example: lmsteer components sentiment --plot words.svg
    """
    steering = parse_steering([name if "=" in name else f"{name}=1" for name in steer], warned=False)
    strengths = steering.constant("the command components")
    if compare_model and not compare:
        raise DataError("--compare-model is the model of --compare: give both.")
    if compare:
        find_card(compare)
    if plot:
        figure_format(plot)
        check_writable(plot)
    mixes = [(" ".join(steer), model, lmsteer.Mix(steering.steers(), strengths))]
    if compare:
        other = lmsteer.Mix({compare: lmsteer.find_steer(compare)}, {compare: 1.0})
        mixes.append((compare, compare_model or model, other))
    models = {base: lmsteer.load(base) for base in {base for _, base, _ in mixes}}
    shown = {
        f"{name} on {base}": lmsteer.components(models[base], mix, components=num_components, words=words)
        for name, base, mix in mixes
    }
    first = next(iter(shown.values()))
    if plot:
        from lmsteer.reading.plot import save_plot

        save_plot(first, plot)
        note(f"A map of the words drawn to {plot}.")
    if as_json:
        columns = {name: [component.to_json() for component in parts] for name, parts in shown.items()}
        print_json(columns if compare else next(iter(columns.values())))
    else:
        print_components(stdout, shown)
