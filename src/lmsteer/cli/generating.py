"""The command that writes: generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmsteer.cli.app import AsJson, Model, app, dialled, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.sources import DEFAULT_MODEL


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
    from lmsteer.streaming import stream as as_it_comes

    texts = [*(prompts or []), *(read_prompts(file) if file else [])]
    steers, settings = dialled(steer or [])
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
        stderr.print(f"{len(done)} continuations written to {out}.", markup=False)
    else:
        printing.continuations(stdout, lines, as_json=as_json)
