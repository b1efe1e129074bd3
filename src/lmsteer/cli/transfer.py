"""The command ``transfer``: a steer of one model becomes a steer of another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.transfer import print_transfer
from lmsteer.data.labelled import LabelledSource, check_labelled
from lmsteer.data.labels import parse_label_map
from lmsteer.data.prompts import read_texts
from lmsteer.errors import DataError
from lmsteer.steer.lookup import check_target, find_card
from lmsteer.util.progress import bars


@app.command()
def transfer(
    steer: options.SteerName,
    to: Annotated[
        str, typer.Option(callback=options.existing_model, metavar="MODEL", help="Model that the new steer is for.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the new steer.")],
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Texts that both models read, without labels (default: the starter texts)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="A few labelled texts, to choose the unit of strength by (default: none)."),
    ] = None,
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    label_map: options.LabelMap = None,
    word_map: Annotated[
        Literal["gradient", "ridge", "procrustes"],
        typer.Option("--map", help="How words are mapped: gradient, ridge or procrustes."),
    ] = "gradient",
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Transfer a steer of --model to another model; labelled texts are not needed.

    Example: lmsteer transfer sentiment --to Qwen/Qwen3-0.6B --out steers/sentiment-qwen
    """
    if data is None and (label_map or (text_column, label_column) != ("text", "label")):
        raise DataError("--label-map, --text-column and --label-column describe --data: give both.")
    check_target(out)
    find_card(steer)
    read = read_texts(texts) if texts else ()
    mapping = parse_label_map(label_map) if label_map else None
    labelled = LabelledSource(data, text_column, label_column, mapping).read(warn) if data else []
    if data:
        check_labelled(labelled, data)
    source, target = lmsteer.find_steer(steer), lmsteer.load(to)
    moved = lmsteer.transfer(
        lmsteer.load(model), source, target, texts=read, labelled=labelled, word_map=word_map, progress=bars()
    )
    folder = lmsteer.save_steer(moved, out)
    if as_json:
        print_json({"folder": str(folder), "card": asdict(moved.card)})
    else:
        print_transfer(stdout, moved, folder)
