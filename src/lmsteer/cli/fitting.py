"""Commands that make steers of texts and checkpoints: demo, fit, import."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, LabelMap, Model, app, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL


@app.command()
def demo(
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="Folder of the steer and the report.")] = Path("demo"),
    quick: Annotated[bool, typer.Option(help="A few texts and samples, to see that all works.")] = False,
) -> None:
    """Fit a sentiment steer on the starter texts, turn the dial, write report.html.

    Example: lmsteer demo
    """
    from lmsteer.demo import run

    run(model, out, quick=quick, console=stdout)


@app.command()
def fit(
    data: Annotated[str | None, typer.Argument(help="Labelled texts: JSONL, CSV, Parquet or a Hub dataset.")] = None,
    name: Annotated[str, typer.Option(help="What the dimension is called (needed).")] = "",
    model: Model = DEFAULT_MODEL,
    method: Annotated[str, typer.Option(help="closed-form, or gradient for the published recipe.")] = "closed-form",
    rank: Annotated[int | None, typer.Option(help="Of the steer; chosen from the spectrum if not given.")] = None,
    label: Annotated[str, typer.Option(help="What +1 means, in words, for the steer card.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of the steer; steers/NAME if not given.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    label_map: LabelMap = None,
    split: Annotated[str, typer.Option(help="Split of a Hub dataset.")] = "train",
    limit: Annotated[int | None, typer.Option(help="Fit on this many of the texts, drawn with --seed.")] = None,
    statistics: Annotated[list[Path] | None, typer.Option(help="Saved statistics to take in; repeatable.")] = None,
    save_statistics: Annotated[Path | None, typer.Option(help="Folder to save the statistics to.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Cut longer texts to this many tokens.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted fit of the same name and texts.")] = False,
    store: Annotated[bool, typer.Option(help="Keep hidden states: another fit on these texts takes seconds.")] = False,
    steps: Annotated[int, typer.Option(help="Gradient method: steps.")] = 1000,
    l2: Annotated[float, typer.Option(help="Gradient method: weight of L2.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of --limit and of the gradient method.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a steer from labelled texts.

    Example: lmsteer fit reviews.csv --name sentiment --label-map 'bad=-1,good=1'
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import LabelledSource, parse_label_map
    from lmsteer.fitting.fit import FitConfig
    from lmsteer.fitting.fit import fit as run
    from lmsteer.fitting.gradient import GradientConfig
    from lmsteer.model.loading import load
    from lmsteer.util.distributed import Processes
    from lmsteer.util.progress import bars

    if not name:
        raise LMSteerError("give the steer a name: --name NAME.")
    mapping = parse_label_map(label_map) if label_map else None
    source = LabelledSource(data, text_column, label_column, mapping, split, limit, seed) if data else None
    texts = source.read() if source else []
    processes = Processes.here()
    done = run(
        load(model),
        texts,
        name=name,
        label=label,
        source=source,
        out=out,
        config=FitConfig(
            method=method,  # type: ignore[arg-type]
            rank=rank,
            max_tokens=max_tokens,
            statistics=statistics or (),
            save_statistics=save_statistics,
            resume=resume,
            cache_activations=store,
            gradient=GradientConfig(steps=steps, l2=l2, seed=seed),
            processes=processes,
        ),
        progress=bars(),
    )
    if not processes.is_first:
        return
    card = done.steer.card
    if as_json:
        printing.as_json({"folder": str(done.folder), "rank": done.steer.rank, "card": dataclasses.asdict(card)})
    else:
        on = "" if model == DEFAULT_MODEL else f" --model {model}"
        printing.fitted(stdout, done, card.data["texts"], str(out or name), on)
