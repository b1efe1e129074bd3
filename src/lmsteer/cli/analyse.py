"""The command ``analyse``: what steers say about texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout
from lmsteer.cli.output.common import print_json_lines
from lmsteer.data.prompts import check_not_empty, read_answers
from lmsteer.data.text_files import read_text
from lmsteer.errors import DataError
from lmsteer.steer.lookup import find_card
from lmsteer.util.files import check_writable, write_file
from lmsteer.util.progress import bars


@app.command()
def analyse(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to read.")] = None,
    steer: Annotated[list[str] | None, typer.Option(help="Name or folder of a steer. Repeatable.")] = None,
    texts_file: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Texts: one on each line, or a data file, of chats, too; '-' is standard input.",
        ),
    ] = None,
    document: Annotated[Path | None, typer.Option(metavar="FILE", help="File that is one text.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What stands before each text and is not read as part of it (default: nothing).")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Take --prompt as a turn of the user, which texts answer.")
    ] = False,
    system: options.System = None,
    spans: Annotated[int, typer.Option(min=0, help="Maximum number of evidence spans for each text.")] = 3,
    window: Annotated[
        int | None, typer.Option(min=2, help="Tokens that the model reads at once (default: the model's context).")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with shaded words.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Read where texts lie on the dimensions of steers, and which words put them there.

    With --json, one JSON object is printed for each text.

    Example: lmsteer analyse 'The plot is thin, but I loved every minute.' --steer sentiment
    """
    given = [*(texts or []), *([read_text(document)] if document else [])]
    before = options.answered([prompt], chat=chat, system=system)[0] if prompt is not None else None
    if before is None and (chat or system is not None):
        raise DataError("--chat and --system say how --prompt is written: give a prompt, too.")
    of_file = read_answers(texts_file) if texts_file else []
    if prompt is not None and any(own is not None for own, _ in of_file):
        raise DataError(f"the texts of {texts_file} have prompts of their own: leave out --prompt.")
    pairs = [*((before, text) for text in given), *((own or before, text) for own, text in of_file)]
    read = [text for _, text in pairs]
    if not read:
        raise DataError("nothing to read: give a text, --texts or --document.")
    check_not_empty(read)
    if html:
        check_writable(html)
    if not steer:
        raise DataError("no steer to analyse the texts with: name one with --steer.")
    for name in steer:
        find_card(name)
    steers = {name: lmsteer.find_steer(name) for name in steer}
    prompts = [own for own, _ in pairs]
    analyses = lmsteer.analyse(
        lmsteer.load(model), read, steers, prompts=prompts, spans=spans, window=window, progress=bars()
    )
    if html:
        from lmsteer.reading.html import render_analyses

        write_file(html, render_analyses(analyses, steers))
        note(f"{len(analyses)} texts written to {html}.")
    if as_json:
        print_json_lines(analysis.to_json() for analysis in analyses)
    elif not html:
        from lmsteer.cli.output.analyses import print_analyses

        print_analyses(stdout, analyses)
