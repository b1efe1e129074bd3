"""Commands that make steers of steers: transfer, mix, and calibrate, which completes one."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import AsJson, LabelMap, Model, app, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL

Prompts = Annotated[Path | None, typer.Option("--file", help="Prompts to measure on; sixty neutral ones if not given.")]


@app.command()
def transfer(
    steer: Annotated[str, typer.Argument(help="A steer's name or folder.")],
    to: Annotated[str, typer.Option(help="The model to carry it to.")],
    out: Annotated[Path, typer.Option(help="Folder of the new steer.")],
    model: Model = DEFAULT_MODEL,
    texts: Annotated[Path | None, typer.Option(help="Any texts to read; the starter texts if not given.")] = None,
    data: Annotated[str | None, typer.Option(help="A few labelled texts, to choose the unit of strength by.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of their texts.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of their labels.")] = "label",
    label_map: LabelMap = None,
    how: Annotated[str, typer.Option("--map", help="Of words: gradient, ridge or procrustes.")] = "gradient",
    as_json: AsJson = False,
) -> None:
    """Carry a steer of --model over to another model; no labelled texts are needed.

    Example: lmsteer transfer sentiment --to Qwen/Qwen3-0.6B --out steers/sentiment-qwen
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import parse_label_map, read_labelled
    from lmsteer.data.prompts import read_prompts
    from lmsteer.model.loading import load
    from lmsteer.steer.files import find_steer, save_steer
    from lmsteer.steer.lookup import check_target
    from lmsteer.transferring.transfer import transfer as run
    from lmsteer.util.progress import bars

    if data is None and (label_map or (text_column, label_column) != ("text", "label")):
        raise LMSteerError("--label-map, --text-column and --label-column are of --data: give both.")
    check_target(out.absolute())
    found, given = find_steer(steer), read_prompts(texts) if texts else ()
    mapping = parse_label_map(label_map) if label_map else None
    columns = {"text_column": text_column, "label_column": label_column}
    labelled = read_labelled(data, **columns, label_map=mapping) if data else ()
    target = load(to)
    moved = run(load(model), found, target, texts=given, labelled=labelled, how=how, progress=bars())  # type: ignore[arg-type]
    folder = save_steer(moved, out)
    if as_json:
        printing.as_json({"folder": str(folder), "card": dataclasses.asdict(moved.card)})
    else:
        printing.transferred(stdout, moved, folder)


@app.command()
def mix(
    steer: Annotated[list[str], typer.Argument(help="Steers as NAME=STRENGTH.")],
    out: Annotated[Path | None, typer.Option(help="Save the mix as one steer, at strength 1, to this folder.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the new steer; the folder's if not given.")] = None,
    label: Annotated[str, typer.Option(help="What +1 of it means; the mix itself if not given.")] = "",
    against: Annotated[list[str] | None, typer.Option(help="A steer whose dimension it must not move.")] = None,
    balance: Annotated[bool, typer.Option(help="Take strengths at which each does as much as it does alone.")] = False,
    rank: Annotated[int | None, typer.Option(help="Keep the nearest steer of this rank.")] = None,
    measure: Annotated[bool, typer.Option(help="Write under each steer alone and under the mix, and compare.")] = False,
    file: Prompts = None,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Make one steer of several, and see how they get in each other's way.

    Example: lmsteer mix sentiment=3 politeness=2 --balance --out steers/kind
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.prompts import read_prompts
    from lmsteer.data.starter import starter_prompts
    from lmsteer.evaluation.interference import interference
    from lmsteer.generation.unconditional import fisher_factors
    from lmsteer.model.loading import load
    from lmsteer.steer.algebra import decorrelate_strengths, merge, orthogonalize
    from lmsteer.steer.files import find_steer, save_steer
    from lmsteer.steer.lookup import check_target, find_card
    from lmsteer.steer.mix import Mix
    from lmsteer.steer.notation import parse_strengths
    from lmsteer.util.progress import bars

    cards, settings = parse_strengths(steer, find_card)
    steers = {key: find_steer(key) for key in cards}
    if len(settings) > 1:
        raise LMSteerError("a mix has one strength of each steer.")
    if out is None and (rank is not None or name or label):
        raise LMSteerError("--rank, --name and --label are of the steer that --out saves: give both.")
    if file and not measure:
        raise LMSteerError("--file names prompts for --measure: give both.")
    if out is not None:
        check_target(out.absolute())
    lm = load(model)
    mixed = Mix(steers, settings[0])
    lm.check_base(mixed)
    if rank is not None and not 1 <= rank <= lm.hidden_size:
        raise LMSteerError(f"--rank must be from 1 to the model's hidden size, {lm.hidden_size}, not {rank}.")
    own = fisher_factors(lm)
    if against:
        others = {other: find_steer(other) for other in against}
        lm.check_base(Mix(others, dict.fromkeys(others, 1.0)))
        steers = {key: orthogonalize(one, others, own) for key, one in steers.items()}
        mixed = Mix(steers, settings[0])
    if balance:
        mixed = Mix(steers, decorrelate_strengths(mixed, own))
    prompts = read_prompts(file) if file else starter_prompts()
    found = interference(lm, mixed, prompts, progress=bars()) if measure else None
    told = printing.mix_as_json(mixed, own, found)
    if out is not None:
        one = merge(mixed, name or out.name, label)
        save_steer(one if rank is None else one.truncated(rank), out)
        stderr.print(f"Steer {name or out.name!r} saved to {out}.", markup=False)
    if as_json:
        printing.as_json(told)
    else:
        printing.mix(stdout, told)


@app.command()
def calibrate(
    steer: Annotated[str, typer.Argument(help="A steer's name or folder; its card is completed.")],
    ratio: Annotated[float, typer.Option(help="Perplexity may rise to this multiple of unsteered text's.")] = 1.5,
    scorer: Annotated[str | None, typer.Option(help="Judge of texts, for --level.")] = None,
    level: Annotated[float | None, typer.Option(help="Wanted mean score, 0 to 1: 'auto' becomes its strength.")] = None,
    file: Prompts = None,
    n: Annotated[int, typer.Option(help="Continuations a prompt and strength.")] = 2,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a continuation.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Save it here; else to its own folder, or steers/NAME.")] = None,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Find the strengths under which the text of a steer stays sound, and keep them on its card.

    Then --steer NAME=50% is half of what is safe, and NAME=auto the wanted level, or all that is safe.

    Example: lmsteer calibrate sentiment --ratio 1.5 --scorer sentiment --level 0.9
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.prompts import read_prompts
    from lmsteer.data.starter import starter_prompts
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.safe_range import calibrate as run
    from lmsteer.evaluation.scorers import checked_scores
    from lmsteer.evaluation.scorers import scorer as named
    from lmsteer.model.loading import load
    from lmsteer.steer.files import load_steer, save_steer
    from lmsteer.steer.lookup import SHIPPED_FOLDER, STEERS_FOLDER, check_target, find_folder
    from lmsteer.util.progress import bars

    folder = find_folder(steer)
    ships = folder.resolve().parent == SHIPPED_FOLDER.resolve()
    # Those that ship are not the user's to write to.
    kept = out or (STEERS_FOLDER / folder.name if ships else folder)
    if ships and out is None and kept.exists():
        raise LMSteerError(f"{kept} is another steer than the one that ships; say with --out where to keep this one.")
    check_target(kept.absolute())
    found = load_steer(folder)
    if level is not None and not 0 <= level <= 1:
        raise LMSteerError(f"--level is a mean score, from 0 to 1, not {level:g}.")
    done = run(
        load(model),
        found,
        read_prompts(file) if file else starter_prompts(),
        max_perplexity_ratio=ratio,
        attribute=partial(checked_scores, named(scorer)) if scorer else None,
        target=level,
        protocol=Protocol(n, max_new_tokens, seed=seed),
        progress=bars(),
    )
    save_steer(dataclasses.replace(found, card=done.add_to(found.card)), kept)
    if as_json:
        printing.as_json(dataclasses.asdict(done))
    else:
        printing.safe_range(stdout, str(out or steer), done)
