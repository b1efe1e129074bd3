"""The command ``fit``: labelled texts become a steer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import lmsteer
from lmsteer.cli import contrast, options
from lmsteer.cli.app import app, stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.data.chats import Chat
from lmsteer.data.labelled import LabelledSource
from lmsteer.data.labels import parse_label_map
from lmsteer.errors import DataError
from lmsteer.fitting.contrast.config import ContrastConfig
from lmsteer.fitting.statistics_files import check_statistics_target
from lmsteer.steer.lookup import target_folder
from lmsteer.util.progress import bars

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Labelled texts, chats or pairs: a JSONL, JSON, CSV, TSV or Parquet file, or a Hub dataset. Optional with "
        "--statistics.",
    ),
]
Method = Annotated[
    Literal["closed-form", "gradient"],
    typer.Option(help="Method: closed-form, or gradient (the published recipe)."),
]
Sites = Annotated[
    str,
    typer.Option(
        metavar="SITES",
        help="Where the steer acts, separated by commas: head, layers.N (after layer N), linear layers such as "
        "'layers.*.mlp.down_proj' (a LoRA; from a description, only those that write to the residual stream), lora "
        "(such layers, chosen for you), or deep (the middle of the model; from a description, two thirds of the way "
        "and the head).",
    ),
]
Rank = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rank of the steer, at each site (default: chosen from the spectrum; 8 for --sites lora from labelled "
        "texts; 1000 for the gradient method).",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the steer (default: steers/NAME).")]
Statistics = Annotated[
    list[Path] | None, typer.Option(metavar="FOLDER", help="Saved statistics to add to these. Repeatable.")
]
SaveStatistics = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder to save the statistics of all texts to.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=2, help="Maximum length of a text without its prompt, in tokens; longer ones are cut (default: none)."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted fit of the same name and texts or description.")
]
CacheActivations = Annotated[
    bool,
    typer.Option("--cache-activations", help="Keep the hidden states, so that another fit on these texts is fast."),
]


@app.command()
def fit(
    context: typer.Context,
    data: Data = None,
    name: Annotated[str | None, typer.Option(help="Name of the style dimension (default: that of --wish).")] = None,
    method: Method = "closed-form",
    sites: Sites = "head",
    rank: Rank = None,
    label: Annotated[str, typer.Option(help="What strength +1 means, in words, for the steer's card.")] = "",
    out: Out = None,
    text_column: options.TextColumn = "text",
    label_column: options.LabelColumn = "label",
    label_map: options.LabelMap = None,
    split: options.Split = "train",
    limit: options.Limit = None,
    statistics: Statistics = None,
    save_statistics: SaveStatistics = None,
    max_tokens: MaxTokens = None,
    positive: contrast.Positive = None,
    negative: contrast.Negative = None,
    describe: contrast.Describe = None,
    prompt: contrast.Prompt = None,
    wish: contrast.Wish = None,
    num_texts: contrast.NumTexts = contrast.NUM_TEXTS,
    teacher: contrast.Teacher = None,
    resume: Resume = False,
    cache_activations: CacheActivations = False,
    steps: Annotated[int, typer.Option(min=1, help="Number of optimizer steps of the gradient method.")] = 1000,
    l2: Annotated[float, typer.Option(min=0, help="Weight of the L2 penalty of the gradient method.")] = 0.0,
    seed: options.Seed = options.DEFAULTS.seed,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Fit a steer on labelled texts, or on a description of the style: then the model writes the texts itself.

    Example: lmsteer fit reviews.csv --name sentiment --label-map 'bad=-1,good=1'
    Example: lmsteer fit --positive 'warm, full of praise' --negative 'cold, full of complaint' --name warmth
    Example: lmsteer fit --wish brevity
    """
    described = contrast.described(context, contrast.Descriptions(positive, negative, describe, prompt, wish))
    if described:
        name, label = name or described.name, label or described.label
    if not name:
        raise DataError("the steer has no name: give it one with --name.")
    target_folder(name, out)
    if described:
        target = contrast.Target(name, label, out, model, as_json)
        settings = ContrastConfig(num_texts, sites=_names_of(sites), rank=rank, seed=seed, resume=resume)
        contrast.fit_described(described, target, config=settings, teacher=teacher)
        return
    if save_statistics:
        check_statistics_target(save_statistics)
    _check_inputs(data, statistics or ())
    mapping = parse_label_map(label_map) if label_map else None
    source = LabelledSource(data, text_column, label_column, mapping, split, limit, seed) if data else None
    texts = source.read(warn) if source else []

    from lmsteer.cli.output.fit import print_fit
    from lmsteer.fitting.fit import FitConfig
    from lmsteer.util.distributed import Processes

    processes = Processes.here()
    config = FitConfig(
        method=method,
        sites=_names_of(sites),
        rank=rank,
        max_tokens=max_tokens,
        statistics=statistics or (),
        save_statistics=save_statistics,
        resume=resume,
        cache_activations=cache_activations,
        gradient=lmsteer.GradientConfig(steps=steps, l2=l2, seed=seed),
        processes=processes,
    )
    lm = lmsteer.load(model)
    fitted = lmsteer.fit(lm, texts, name=name, label=label, source=source, out=out, config=config, progress=bars())
    if not processes.is_main_process:
        return
    if as_json:
        ranks = fitted.steer.ranks
        print_json({"folder": str(fitted.folder), "ranks": ranks, "card": asdict(fitted.steer.card)})
    else:
        of_chats = any(isinstance(text.before, Chat) for text in texts)
        more = " --chat" * of_chats + ("" if model == options.DEFAULT_MODEL else f" --model {model}")
        print_fit(stdout, fitted, str(out or name), more)


def _check_inputs(data: str | None, statistics: Sequence[Path]) -> None:
    if data is None and not statistics:
        raise DataError("nothing to fit: give labelled texts, or saved statistics.")
    if missing := [str(folder) for folder in statistics if not folder.is_dir()]:
        raise DataError(f"no such folder of statistics: {', '.join(missing)}.")


def _names_of(sites: str) -> list[str]:
    return [site.strip() for site in sites.split(",")]
