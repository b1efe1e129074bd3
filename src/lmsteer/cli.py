"""The command line: parses, calls, prints. Every command is a Python call of the same name and arguments."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lmsteer.errors import LMSteerError
from lmsteer.sources import DEFAULT_MODEL

app = typer.Typer(
    help="Turn a language model's style up and down.", no_args_is_help=True, pretty_exceptions_enable=False
)
_out, _err = Console(), Console(stderr=True)

Model = Annotated[str, typer.Option(help="Hub id, folder, .gguf file, or the name of the packaged model.")]
LabelMap = Annotated[str | None, typer.Option(help="Numbers for class labels, like 'negative=-1,positive=1'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def main() -> None:
    """Run the command line; a user's mistake ends in a message and exit status 2."""
    _quiet_libraries()
    try:
        app()
    except LMSteerError as error:
        _err.print(f"lmsteer: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


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
    from lmsteer import printing
    from lmsteer.fitting.data import LabelledSource, parse_label_map
    from lmsteer.fitting.fit import fit as run
    from lmsteer.fitting.gradient import Recipe
    from lmsteer.fitting.processes import Processes
    from lmsteer.lm import load
    from lmsteer.progress import bars

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
        method=method,  # type: ignore[arg-type]
        rank=rank,
        label=label,
        source=source,
        out=out,
        statistics=statistics or (),
        save_statistics=save_statistics,
        max_tokens=max_tokens,
        resume=resume,
        store=store,
        recipe=Recipe(steps=steps, l2=l2, seed=seed),
        processes=processes,
        progress=bars(),
    )
    if not processes.is_first:
        return
    card = done.steer.card
    if as_json:
        printing.as_json({"folder": str(done.folder), "rank": done.steer.rank, "card": dataclasses.asdict(card)})
    else:
        on = "" if model == DEFAULT_MODEL else f" --model {model}"
        printing.fitted(_out, done, card.data["texts"], str(out or name), on)


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts to continue.")] = None,
    file: Annotated[Path | None, typer.Option(help="Prompts: plain lines or JSONL; '-' for standard input.")] = None,
    steer: Annotated[list[str] | None, typer.Option(help="STEER=STRENGTH or STEER=S1,S2,..; repeatable.")] = None,
    model: Model = DEFAULT_MODEL,
    n: Annotated[int, typer.Option(help="Samples for each prompt and strength.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a continuation.")] = 40,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 0.9,
    top_k: Annotated[int, typer.Option(help="Draw from so many likeliest tokens; 0 for all.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of all samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows at once.")] = 64,
    out: Annotated[Path | None, typer.Option(help="Write JSONL in the published format.")] = None,
    stream: Annotated[bool, typer.Option(help="Print one continuation as it is written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Continue prompts under steers: every prompt at every strength, side by side.

    Example: lmsteer generate 'The movie was' --steer sentiment=-3,0,3
    """
    from lmsteer import printing
    from lmsteer.generation import generate as run
    from lmsteer.lm import load
    from lmsteer.progress import bars
    from lmsteer.prompts import as_published, read_prompts, write_jsonl
    from lmsteer.steers.files import find_steer
    from lmsteer.steers.mix import parse_settings
    from lmsteer.streaming import stream as as_it_comes

    texts = [*(prompts or []), *(read_prompts(file) if file else [])]
    named, settings = parse_settings(steer or [])
    steers = {name: find_steer(name) for name in named}
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "top_p": top_p,
        "top_k": top_k,
        "temperature": temperature,
        "seed": seed,
    }
    if stream:
        if len(texts) * len(settings) * n != 1 or out or as_json:
            raise LMSteerError("--stream prints one continuation: give one prompt and one strength a steer.")
        printing.streamed(texts[0], as_it_comes(load(model), texts[0], steers, settings[0], **options))
        return
    done = list(run(load(model), texts, steers, settings, n=n, batch_size=batch_size, progress=bars(), **options))
    lines = as_published(done)
    if out:
        write_jsonl(out, lines)
        _err.print(f"{len(done)} continuations written to {out}.")
    elif as_json:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
    else:
        printing.continuations(_out, lines)


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
    from lmsteer import printing
    from lmsteer.analysis.analyse import analyse as run
    from lmsteer.analysis.page import page
    from lmsteer.fitting.data import text_of
    from lmsteer.lm import load
    from lmsteer.progress import bars
    from lmsteer.prompts import read_prompts, write_text
    from lmsteer.steers.files import find_steer

    given = [*(texts or []), *(read_prompts(file) if file else []), *([text_of(document)] if document else [])]
    if not given:
        raise LMSteerError("nothing to read: give a text, --file or --document.")
    steers = {name: find_steer(name) for name in steer or ()}
    found = run(load(model), given, steers, spans=spans, window=window, progress=bars())
    if html:
        write_text(html, page(found, steers))
        _err.print(f"{len(found)} texts written to {html}.")
    if as_json:
        for analysis in found:
            print(json.dumps(printing.analysis_as_json(analysis), ensure_ascii=False))
    elif not html:
        printing.analyses(_out, found)


@app.command()
def lens(
    steer: Annotated[list[str], typer.Argument(help="A steer's name or folder; several, as NAME=STRENGTH, as one.")],
    model: Model = DEFAULT_MODEL,
    components: Annotated[int, typer.Option(help="Shown at most.")] = 5,
    words: Annotated[int, typer.Option(help="At each end of a component, at most.")] = 12,
    picture: Annotated[Path | None, typer.Option(help="Draw a map of the words to this file (.svg, .png).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the words at both ends of what a steer does.

    Example: lmsteer lens sentiment --picture words.svg
    """
    from lmsteer import printing
    from lmsteer.analysis.lens import lens as run
    from lmsteer.analysis.word_map import draw
    from lmsteer.lm import load
    from lmsteer.steers.files import find_steer
    from lmsteer.steers.mix import Mix, parse_settings

    named, settings = parse_settings([name if "=" in name else f"{name}=1" for name in steer])
    if len(settings) > 1:
        raise LMSteerError("a lens looks at one strength of each steer.")
    steers = {name: find_steer(name) for name in named}
    found = run(load(model), Mix(steers, settings[0]), components=components, words=words)
    if picture:
        draw(found, picture)
        _err.print(f"A map of the words drawn to {picture}.")
    if as_json:
        printing.as_json([printing.component_as_json(component) for component in found])
    else:
        printing.components(_out, found)


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

    Example: lmsteer verify sentiment --data held_out.jsonl
    """
    from lmsteer import printing
    from lmsteer.fitting.data import LabelledSource, parse_label_map
    from lmsteer.lm import load
    from lmsteer.steers.files import find_steer
    from lmsteer.verify import verify as run

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
        printing.verification(_out, done, source.path)
    if not done.acts:
        raise typer.Exit(1)


@app.command(name="import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt checkpoint of the published LM-Steer code.")],
    name: Annotated[str, typer.Option(help="What the dimension is called.")],
    model: Model = DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option(help="Folder of the steer; steers/NAME if not given.")] = None,
) -> None:
    """Import a published checkpoint; nothing in it is executed.

    Example: lmsteer import checkpoint.pt --name detoxification --model gpt2-large
    """
    from lmsteer.lm import load
    from lmsteer.steers.files import STEERS_FOLDER, import_published, save_steer
    from lmsteer.steers.steer import Card

    lm = load(model)
    vocabulary, hidden_size = lm.head.weight.shape
    card = Card(name, lm.name, lm.fingerprint, lm.tokenizer_fingerprint)
    steers = import_published(checkpoint, card, hidden_size, vocabulary)
    for k, steer in enumerate(steers):
        folder = (STEERS_FOLDER / name if out is None else out).absolute()
        folder = folder if len(steers) == 1 else folder.with_name(f"{folder.name}-{k}")
        _out.print(f"Steer {steer.card.name!r} saved to {save_steer(steer, folder)}.")


@app.command()
def cache(
    clear: Annotated[str | None, typer.Option(help="Remove models, states, curvature, or all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the cache holds (models, hidden states of texts, curvature of models), or clear it.

    Example: lmsteer cache --clear states
    """
    from lmsteer import printing
    from lmsteer.cache import cache_dir, entries
    from lmsteer.cache import clear as run

    found = run(clear) if clear else entries()
    if as_json:
        printing.as_json(printing.entries_as_json(found))
    else:
        printing.cached(_out, found, f"{'Removed from' if clear else 'In'} {cache_dir()}")


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

    run(model, out, quick=quick, console=_out)
