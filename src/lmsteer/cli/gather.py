"""The command ``gather``: statistics of more texts than fit in memory, for ``fit --statistics``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.data.labelled import LabelledSource
from lmsteer.data.labels import parse_label_map
from lmsteer.fitting.statistics_files import check_statistics_target
from lmsteer.util.progress import bars


@app.command()
def gather(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A .jsonl or .parquet file, or a Hub dataset, which is streamed.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the statistics.")],
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    label_map: options.LabelMap = None,
    split: options.Split = "train",
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Maximum length of a text in tokens (default: the model's context).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue with the first texts that are not in the statistics.")
    ] = False,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Gather statistics of a stream of labelled texts, in memory that does not grow with their number.

    Example: lmsteer gather reviews.jsonl --out stats; lmsteer fit --statistics stats --name reviews
    """
    check_statistics_target(out)
    mapping = parse_label_map(label_map) if label_map else None
    source = LabelledSource(data, text_column, label_column, mapping, split)

    from lmsteer.fitting.gather import WINDOW, gather

    windows = source.windows(WINDOW, warn)
    first = next(windows, [])  # what is wrong with the data shows before the model is loaded
    lm = lmsteer.load(model)
    found = gather(lm, chain([first], windows), out, max_tokens=max_tokens, resume=resume, progress=bars())
    if as_json:
        print_json({"folder": str(out), "texts": found.texts, "tokens": found.counts.tokens})
    else:
        words = f"{found.texts:,} texts, {found.counts.tokens:,} tokens without those that are held out, in {out}"
        stdout.print(f"{words}\nfit a steer: lmsteer fit --statistics {out} --name NAME", markup=False, highlight=False)
