"""Commands that read: texts (analyse), steers (lens), and the proof that a steer acts (verify)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, LabelMap, Model, app, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL


@app.command()
def analyse(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to read.")] = None,
    steer: Annotated[list[str] | None, typer.Option(help="A steer's name or folder; repeatable.")] = None,
    file: Annotated[Path | None, typer.Option(help="Texts: plain lines or JSONL; '-' for standard input.")] = None,
    document: Annotated[Path | None, typer.Option(help="A file that is one text.")] = None,
    model: Model = DEFAULT_MODEL,
    spans: Annotated[int, typer.Option(help="Evidence spans a text, at most.")] = 3,
    window: Annotated[int | None, typer.Option(help="Tokens read at once; the model's context if not given.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the words shaded.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text, for machines.")] = False,
) -> None:
    """Read where texts lie on the dimensions of steers, and which words put them there.

    Example: lmsteer analyse 'The plot is thin, but I loved every minute.' --steer sentiment
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import text_of
    from lmsteer.data.prompts import read_prompts
    from lmsteer.model.loading import load
    from lmsteer.reading.analyse import analyse as run
    from lmsteer.reading.html import render_analyses
    from lmsteer.steer.files import find_steer
    from lmsteer.util.files import write_file
    from lmsteer.util.progress import bars

    given = [*(texts or []), *(read_prompts(file) if file else []), *([text_of(document)] if document else [])]
    if not given:
        raise LMSteerError("nothing to read: give a text, --file or --document.")
    steers = {name: find_steer(name) for name in steer or ()}
    found = run(load(model), given, steers, spans=spans, window=window, progress=bars())
    if html:
        write_file(html, render_analyses(found, steers))
        stderr.print(f"{len(found)} texts written to {html}.", markup=False)
    if as_json:
        for analysis in found:
            print(json.dumps(analysis.to_json(), ensure_ascii=False))
    elif not html:
        printing.analyses(stdout, found)


@app.command()
def lens(
    steer: Annotated[list[str], typer.Argument(help="A steer's name or folder; several, as NAME=STRENGTH, as one.")],
    model: Model = DEFAULT_MODEL,
    beside: Annotated[str | None, typer.Option(help="Another steer, to show side by side.")] = None,
    beside_model: Annotated[str, typer.Option(help="Its base; --model if not given.")] = "",
    components: Annotated[int, typer.Option(help="Shown at most.")] = 5,
    words: Annotated[int, typer.Option(help="At each end of a component, at most.")] = 12,
    picture: Annotated[Path | None, typer.Option(help="Draw a map of the words to this file (.svg, .png).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the words at both ends of what a steer does.

    Example: lmsteer lens sentiment --picture words.svg
    """
    from lmsteer.cli import output as printing
    from lmsteer.model.loading import load
    from lmsteer.reading.components import components as run
    from lmsteer.reading.plot import check_plot_format, save_plot
    from lmsteer.steer.files import find_steer
    from lmsteer.steer.lookup import find_card
    from lmsteer.steer.mix import Mix
    from lmsteer.steer.notation import parse_strengths

    cards, settings = parse_strengths([name if "=" in name else f"{name}=1" for name in steer], find_card)
    steers = {name: find_steer(name) for name in cards}
    if len(settings) > 1:
        raise LMSteerError("a lens looks at one strength of each steer.")
    if beside_model and not beside:
        raise LMSteerError("--beside-model is of --beside: give both.")
    if picture:
        check_plot_format(picture)
    shown = [(" ".join(steer), model, Mix(steers, settings[0]))]
    if beside:
        shown.append((beside, beside_model or model, Mix({beside: find_steer(beside)}, {beside: 1.0})))
    found = [
        (f"{name} on {base}", run(load(base), each, components=components, words=words)) for name, base, each in shown
    ]
    if picture:
        save_plot(found[0][1], picture)
        stderr.print(f"A map of the words drawn to {picture}.", markup=False)
    if as_json:
        lines = {name: [printing.component_as_json(each) for each in parts] for name, parts in found}
        printing.as_json(lines if beside else lines[found[0][0]])
    else:
        printing.components(stdout, found)


@app.command()
def verify(
    steer: Annotated[str, typer.Argument(help="A steer's name or folder.")],
    data: Annotated[str | None, typer.Option(help="Labelled texts; the card's own if not given.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts; as in the fit if not given.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of the labels; as in the fit if not given.")] = None,
    label_map: LabelMap = None,
    model: Model = DEFAULT_MODEL,
    strength: Annotated[float, typer.Option(help="At which the identities are checked.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Prove with numbers that a steer acts on its base, and how much. Exit status 1 if it does not.

    Example: lmsteer verify sentiment --data heldstdout.jsonl
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import LabelledSource, parse_label_map
    from lmsteer.model.loading import load
    from lmsteer.reading.verify import verify as run
    from lmsteer.steer.files import find_steer

    if data is None and (text_column or label_column or label_map):
        raise LMSteerError("columns and a label map are of --data: name the file, too.")
    found = find_steer(steer)
    recorded = LabelledSource(**{"path": "", **found.card.data.get("source", {})})
    told = {
        "path": data,
        "text_column": text_column,
        "label_column": label_column,
        "label_map": parse_label_map(label_map) if label_map else None,
    }
    named = {key: value for key, value in told.items() if value is not None}
    source = dataclasses.replace(recorded, **named, limit=None) if data else recorded  # type: ignore[arg-type]
    texts = source.read() if data or Path(recorded.path).is_file() else []
    done = run(load(model), found, texts, fitted_on=data is None, strength=strength)
    if as_json:
        printing.as_json(printing.verification_as_json(done))
    else:
        printing.verification(stdout, done, source.path)
    if not done.acts:
        raise typer.Exit(1)
