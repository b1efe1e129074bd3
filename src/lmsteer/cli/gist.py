"""The commands of gist tokens: gist fit, gist evaluate, gist compress, gist generate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmsteer.cli.app import AsJson, Model, app, dialled, stdout
from lmsteer.errors import LMSteerError
from lmsteer.gist import SHIPPED
from lmsteer.model.sources.resolve import DEFAULT_MODEL

if TYPE_CHECKING:
    from lmsteer.gist.masks import GistCondition

gist_app = typer.Typer(help="Squeeze prompts into a few tokens' keys and values.", no_args_is_help=True)
app.add_typer(gist_app, name="gist")
Adapter = Annotated[str, typer.Option(help="Folder of a gist adapter, as gist fit makes it, or one that ships.")]


@gist_app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Instruction data: JSONL, CSV, Parquet or a Hub dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")],
    held_out: Annotated[str | None, typer.Option(help="Instruction data whose loss is told meanwhile.")] = None,
    tokens: Annotated[int, typer.Option(help="Gist tokens after a prompt.")] = 1,
    shared: Annotated[bool, typer.Option(help="Let all gist tokens have one embedding.")] = False,
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 8,
    full: Annotated[bool, typer.Option(help="Train every weight but the embeddings in place of a LoRA.")] = False,
    condition: Annotated[str, typer.Option(help="gist, or the control positive or negative.")] = "gist",
    steps: Annotated[int, typer.Option(help="Of AdamW.")] = 1000,
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 8,
    learning_rate: Annotated[float | None, typer.Option(help="The highest; 1e-3, or 1e-5 with --full.")] = None,
    every: Annotated[int, typer.Option(help="Steps between two looks at --held-out, and two checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the LoRA and of the order.")] = 0,
    at_once: Annotated[int, typer.Option(help="Tokens whose activations are kept; a GPU has room for more.")] = 6144,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted fit.")] = False,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Fit a gist adapter from instruction data with the columns instruction, input and output.

    Example: lmsteer gist fit instructions.jsonl --tokens 2 --out gists
    """
    from lmsteer.cli import output as printing
    from lmsteer.gist.adapter import check_target
    from lmsteer.gist.examples import read_instructions
    from lmsteer.gist.fit import fit_gist
    from lmsteer.gist.student import GistConfig
    from lmsteer.model.loading import load
    from lmsteer.util.progress import bars

    rate = learning_rate if learning_rate is not None else 1e-5 if full else 1e-3
    settings = GistConfig(tokens, shared, rank, full, _condition(condition), steps, batch, rate, seed, at_once)
    check_target(out)
    instructions, unseen = read_instructions(data), read_instructions(held_out) if held_out else ()
    # In half precision, small steps would round away.
    lm = load(model, dtype="float32") if full else load(model)
    adapter = fit_gist(
        lm, instructions, out, settings=settings, held_out=unseen, every=every, resume=resume, progress=bars()
    )
    if as_json:
        printing.as_json({"folder": str(out), "card": asdict(adapter.card)})
    else:
        printing.gist_fitted(stdout, adapter, out)


@gist_app.command()
def evaluate(
    data: Annotated[str, typer.Argument(help="Instruction data with known outputs.")],
    adapter: Adapter = SHIPPED,
    condition: Annotated[str | None, typer.Option(help="What outputs see; as the adapter was fitted if none.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take this many, from the first on.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an output.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Outputs written at once.")] = 16,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Measure outputs under gists: ROUGE-L, exact matches, and the loss of the known ones.

    Example: lmsteer gist evaluate unseen.jsonl --adapter gists
    """
    from lmsteer.cli import output as printing
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.evaluate import evaluate as run
    from lmsteer.gist.examples import read_instructions
    from lmsteer.model.loading import load
    from lmsteer.util.progress import bars

    if limit is not None and limit < 1:
        raise LMSteerError(f"--limit must be one or more, not {limit}.")
    found = find_adapter(adapter)
    seen = _condition(condition) if condition else found.condition
    instructions = read_instructions(data)[:limit]
    quality = run(
        load(model),
        found,
        instructions,
        condition=seen,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=bars(),
    )
    if as_json:
        printing.as_json({"condition": seen.value, **quality.to_json()})
    else:
        stdout.print(
            f"{quality.examples} outputs, {seen.value}: ROUGE-L {quality.rouge_l:.3f}, exact {quality.exact:.1%}, loss "
            f"{quality.loss:.3f} nats a token; of a prompt of {quality.prompt_tokens:.0f} tokens, "
            f"{quality.cache_bytes / 1024:.0f} KiB are kept.",
            highlight=False,
        )


@gist_app.command()
def compress(
    out: Annotated[Path, typer.Option(help="File of the gist.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt.")] = None,
    adapter: Adapter = SHIPPED,
    file: Annotated[Path | None, typer.Option(help="Text file that holds the prompt.")] = None,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Squeeze a prompt into a gist, a file that stands in its place.

    Example: lmsteer gist compress 'Write the opposite of the given word.' --out opposite.gist
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.labelled import text_of
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.compress import compress as run
    from lmsteer.gist.examples import prompt_ids
    from lmsteer.model.loading import load

    if (prompt is None) == (file is None):
        raise LMSteerError("give a prompt, or --file with one.")
    text = prompt if file is None else text_of(file)
    if not (text or "").strip():
        raise LMSteerError("the prompt is empty: there is nothing to squeeze.")
    found, lm = find_adapter(adapter), load(model)
    (gist,) = run(lm, found, prompt_ids(lm, [text or ""]), condition=found.condition)
    gist.save(out)
    told = {"file": str(out), **asdict(gist.origin), "gist_tokens": gist.tokens, "bytes": gist.bytes}
    if as_json:
        printing.as_json(told)
    else:
        stdout.print(
            f"{gist.origin.prompt_tokens} tokens squeezed into {gist.tokens}, {gist.bytes / 1024:.0f} KiB of keys and "
            f"values, and kept in {out}.",
            markup=False,
            highlight=False,
        )


@gist_app.command()
def generate(
    gist: Annotated[list[Path], typer.Option(help="A gist for all inputs; or as many as inputs, one each.")],
    inputs: Annotated[list[str] | None, typer.Argument(help="Inputs; one that is empty if none.")] = None,
    adapter: Adapter = SHIPPED,
    file: Annotated[Path | None, typer.Option(help="Inputs: plain lines or JSONL.")] = None,
    steer: Annotated[list[str] | None, typer.Option(help="STEER=STRENGTH or STEER=S1,S2,..; repeatable.")] = None,
    n: Annotated[int, typer.Option(help="Samples for each input and strength.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an output.")] = 40,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 0.9,
    temperature: Annotated[float, typer.Option(help="0, the default, takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all samples.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Rows at once.")] = 64,
    model: Model = DEFAULT_MODEL,
    as_json: AsJson = False,
) -> None:
    """Write outputs under gists, and under steers if you like.

    Example: lmsteer gist generate hot early --gist opposite.gist
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.prompts import read_prompts
    from lmsteer.generation.config import GenerationConfig, SamplingConfig
    from lmsteer.generation.published import as_published
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.examples import input_text
    from lmsteer.gist.generation import generate_from_gists
    from lmsteer.gist.gist import Gist
    from lmsteer.model.loading import load
    from lmsteer.util.progress import bars

    texts = [*(inputs or []), *(read_prompts(file) if file else [])] or [""]
    steers, settings = dialled(steer or [])
    draws = GenerationConfig(n, max_new_tokens, SamplingConfig(top_p, temperature=temperature), seed, batch_size)
    gists, found = [Gist.load(each) for each in gist], find_adapter(adapter)
    given = [input_text(text) for text in texts]
    rows = list(generate_from_gists(load(model), found, gists, given, steers, settings, draws, progress=bars()))
    lines = as_published(rows, len(rows) // len(texts))
    names = [str(each) for each in gist] if len(gist) > 1 else [str(gist[0])] * len(texts)
    told = [{**line, "gist": name} for line, name in zip(lines, names, strict=True)]
    printing.continuations(stdout, told, as_json=as_json)


def _condition(name: str) -> GistCondition:
    from lmsteer.gist.masks import GistCondition

    if name not in {each.value for each in GistCondition}:
        raise LMSteerError(f"--condition is one of {', '.join(GistCondition)}, not {name!r}.")
    return GistCondition(name)
