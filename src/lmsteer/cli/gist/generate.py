"""The command ``gist generate``: outputs under gists, and under steers as well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import stdout
from lmsteer.cli.gist.app import Adapter, gist_app
from lmsteer.cli.output.common import print_json_lines
from lmsteer.cli.output.generation import print_continuations
from lmsteer.cli.steering import parse_steering
from lmsteer.data.prompts import read_texts
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.gist import SHIPPED
from lmsteer.gist.lookup import find_card
from lmsteer.util.progress import bars


@gist_app.command()
def generate(
    gist: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Gist of all inputs, or repeated, one for each input.")
    ],
    inputs: Annotated[list[str] | None, typer.Argument(help="Inputs (default: one that is empty).")] = None,
    inputs_file: Annotated[
        Path | None, typer.Option("--inputs", metavar="FILE", help="Inputs: one on each line, or a data file.")
    ] = None,
    adapter: Adapter = SHIPPED,
    steer: options.Steer = None,
    hold: options.Hold = None,
    num_samples: options.NumSamples = options.DEFAULTS.num_samples,
    max_new_tokens: options.MaxNewTokens = options.DEFAULTS.max_new_tokens,
    top_p: options.TopP = options.DEFAULTS.sampling.top_p,
    top_k: options.TopK = options.DEFAULTS.sampling.top_k,
    temperature: options.Temperature = options.DEFAULTS.sampling.temperature,
    seed: options.Seed = options.DEFAULTS.seed,
    batch_size: options.BatchSize = options.DEFAULTS.batch_size,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Generate outputs under gists, and under steers as well.

    With --json, one JSON object is printed for each input.

    Example: lmsteer gist generate hot early --gist opposite.gist --temperature 0
    """
    config = GenerationConfig(num_samples, max_new_tokens, SamplingConfig(top_p, top_k, temperature), seed, batch_size)
    texts = [*(inputs or []), *(read_texts(inputs_file) if inputs_file else [])] or [""]
    if missing := [str(file) for file in gist if not file.is_file()]:
        raise DataError(f"no such file: {', '.join(missing)}.")
    find_card(adapter)
    steering = parse_steering(steer or [], hold or [])

    from lmsteer.generation.published import as_published
    from lmsteer.gist.adapter import find_adapter
    from lmsteer.gist.examples import input_text
    from lmsteer.gist.generation import generate_from_gists
    from lmsteer.gist.gist import Gist

    gists, loaded, steers = [Gist.load(file) for file in gist], find_adapter(adapter), steering.steers()
    rows = generate_from_gists(
        lmsteer.load(model),
        loaded,
        gists,
        [input_text(text) for text in texts],
        steers,
        steering.settings,
        config,
        progress=bars(),
    )
    published = as_published(list(rows), len(steering.settings) * num_samples)
    files = gist if len(gist) > 1 else gist * len(texts)
    lines = [{**line, "gist": str(file)} for line, file in zip(published, files, strict=True)]
    print_json_lines(lines) if as_json else print_continuations(stdout, lines)
