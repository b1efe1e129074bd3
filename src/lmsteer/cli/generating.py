"""The command that writes: generate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsteer.cli.app import AsJson, Model, app, dialled, stderr, stdout
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL

if TYPE_CHECKING:
    from lmsteer.generation.bulk import Writer
    from lmsteer.generation.config import GenerationConfig
    from lmsteer.model.lm import LM
    from lmsteer.steer.notation import StrengthSettings
    from lmsteer.steer.steer import Steer

    Steers = dict[str, Steer]


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
    batch_size: Annotated[int | None, typer.Option(help="Rows at once; 64 if not given. vLLM finds its own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write JSONL in the published format, as much as there is.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --out that was stopped.")] = False,
    engine: Annotated[str, typer.Option(help="transformers, or vllm for --out.")] = "transformers",
    engine_options: Annotated[
        str | None, typer.Option(help="JSON for vllm.LLM: '{\"tensor_parallel_size\": 2}'.")
    ] = None,
    stream: Annotated[bool, typer.Option(help="Print one continuation as it is written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Continue prompts under steers: every prompt at every strength, side by side.

    Example: lmsteer generate 'The movie was' --steer sentiment=-3,0,3
    """
    from lmsteer.cli import output as printing
    from lmsteer.data.prompts import read_prompts
    from lmsteer.generation.bulk import writer_of
    from lmsteer.generation.config import GenerationConfig, SamplingConfig
    from lmsteer.model.loading import load
    from lmsteer.util.progress import bars

    texts = [*(prompts or []), *(read_prompts(file) if file else [])]
    steers, settings = dialled(steer or [])
    draws = GenerationConfig(
        n, max_new_tokens, SamplingConfig(top_p, top_k, temperature), seed, 64 if batch_size is None else batch_size
    )
    if engine not in ("transformers", "vllm") or (engine == "vllm" and not out):
        raise LMSteerError("--engine is transformers, or, with --out, vllm.")
    if engine_options is not None and engine != "vllm":
        raise LMSteerError("--engine-options are vLLM's: add --engine vllm.")
    if batch_size is not None and engine == "vllm":
        raise LMSteerError("--batch-size is not vLLM's, which finds its own: leave it out.")
    if stream and (len(texts) * len(settings) * n != 1 or out or as_json):
        raise LMSteerError("--stream prints one continuation: give one prompt and one strength a steer.")
    if resume and not out:
        raise LMSteerError("--resume goes on with a file: name it with --out.")
    if stream:
        printing.streamed(texts[0], _streamed(load(model), texts[0], steers, settings[0], draws))
    elif out:
        options = _options(engine_options or "{}") if engine == "vllm" else None
        _in_bulk(model, texts, steers, settings, draws, out, resume, options)
    else:
        write = writer_of(load(model), steers, settings, draws, bars())
        printing.continuations(stdout, write(texts, 0), as_json=as_json)


def _streamed(lm: LM, text: str, steers: Steers, setting: dict[str, float], draws: GenerationConfig) -> Iterator[str]:
    from lmsteer.generation.stream import stream

    return stream(lm, text, steers, setting, draws)


def _in_bulk(
    model: str,
    texts: list[str],
    steers: Steers,
    settings: StrengthSettings,
    draws: GenerationConfig,
    out: Path,
    resume: bool,
    options: dict[str, Any] | None,
) -> None:
    """Into a file, with vLLM if there are options for it."""
    from lmsteer.generation.bulk import check_prompts, write_in_bulk, writer_of
    from lmsteer.model.fingerprints import tensors_fingerprint
    from lmsteer.model.loading import load
    from lmsteer.model.sources.resolve import resolve
    from lmsteer.util.progress import bars

    if not texts:
        raise LMSteerError("no prompts: give some as arguments, in a file, or on standard input.")
    record = {
        "model": model,
        "engine": "transformers" if options is None else "vllm",
        "steers": {name: tensors_fingerprint(steer.factors) for name, steer in steers.items()},
        "settings": settings,
        "draws": {name: value for name, value in asdict(draws).items() if name != "batch_size"},
        "texts": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32],
    }
    if options is None:
        lm = load(model)
        check_prompts(lm, texts, draws)
        writing: AbstractContextManager[Writer] = nullcontext(writer_of(lm, steers, settings, draws))
    else:
        from lmsteer.serving.vllm.offline import vllm_writer

        writing = vllm_writer(str(resolve(model).location), steers, settings, draws, out.parent, options)
    with writing as write:
        write_in_bulk(write, texts, out, record, resume=resume, progress=bars())
    stderr.print(f"{len(texts) * len(settings) * draws.num_samples} continuations written to {out}.", markup=False)


def _options(notation: str) -> dict[str, Any]:
    try:
        options = json.loads(notation)
    except ValueError as error:
        raise LMSteerError(f"--engine-options is not JSON: {error}.") from error
    if not isinstance(options, dict):
        raise LMSteerError("--engine-options is a JSON object of arguments.")
    return options
