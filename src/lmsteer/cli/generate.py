"""The command ``generate``: continuations of prompts under steers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, note, stdout
from lmsteer.cli.output.common import print_json_lines
from lmsteer.cli.output.generation import print_continuations, print_stream
from lmsteer.cli.steering import RequestedSteers, parse_steering
from lmsteer.data.chats import Prompt
from lmsteer.data.prompts import read_prompts
from lmsteer.errors import DataError
from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.partial_file import check_bulk_target
from lmsteer.steer.strength import check_counted
from lmsteer.util.progress import bars
from lmsteer.util.records import parse_json

PromptsFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts: one on each line, or a data file, of chats, too; '-' is standard input.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JSONL in the published format to a file.")]
Engine = Annotated[
    Literal["transformers", "vllm"], typer.Option(help="What generates: transformers, or vllm (with --out).")
]
EngineOptions = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Arguments of vllm.LLM, such as '{\"tensor_parallel_size\": 2}'."),
]


@app.command()
def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(help="Texts to continue; turns of a user with --chat.")] = None,
    prompts_file: PromptsFile = None,
    chat: options.AsChat = False,
    system: options.System = None,
    steer: options.Steer = None,
    hold: options.Hold = None,
    num_samples: options.NumSamples = options.DEFAULTS.num_samples,
    max_new_tokens: options.MaxNewTokens = options.DEFAULTS.max_new_tokens,
    top_p: options.TopP = options.DEFAULTS.sampling.top_p,
    top_k: options.TopK = options.DEFAULTS.sampling.top_k,
    temperature: options.Temperature = options.DEFAULTS.sampling.temperature,
    stop: options.Stop = None,
    plausible: options.Plausible = options.DEFAULTS.limits.plausible,
    fresh: options.Fresh = options.DEFAULTS.limits.fresh,
    kl: options.KL = options.DEFAULTS.limits.kl,
    seed: options.Seed = options.DEFAULTS.seed,
    batch_size: options.BatchSize = options.DEFAULTS.batch_size,
    readings: options.Readings = False,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run with the same --out.")] = False,
    engine: Engine = "transformers",
    engine_options: EngineOptions = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print one continuation while it is generated.")] = False,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Continue prompts, or answer them with --chat, under steers: every prompt at every strength.

    With --json, one JSON object is printed for each prompt.

    Example: lmsteer generate 'The movie was' --steer sentiment=-3,0,3
    """
    limits, sampling = Limits(plausible, fresh, kl), SamplingConfig(top_p, top_k, temperature)
    config = GenerationConfig(
        num_samples,
        max_new_tokens,
        sampling,
        seed,
        batch_size,
        limits=limits,
        readings=readings,
        stop=tuple(stop or ()),
    )
    if limits.of_steers and not (steer or hold):
        raise DataError(f"--{limits.of_steers[0]} limits steers: name one with --steer or --hold.")
    if engine == "vllm" and limits.fresh:
        raise DataError("--fresh does not apply to vLLM: leave it out, or use --engine transformers.")
    if engine == "vllm" and limits.on and not (steer or hold):
        raise DataError("--plausible limits steers in vLLM: name one with --steer.")
    if readings and (stream or engine == "vllm"):
        raise DataError(f"--readings does not apply to {'vLLM' if engine == 'vllm' else '--stream'}: leave one out.")
    if engine == "vllm" and _is_given(context, "batch_size"):
        raise DataError("--batch-size does not apply to vLLM, which chooses its own: leave it out.")
    if engine == "vllm" and not out:
        raise DataError("--engine vllm writes to a file: name it with --out.")
    if engine_options is not None and engine != "vllm":
        raise DataError("--engine-options are vLLM's: add --engine vllm.")
    llm_arguments = _json_object(engine_options or "{}")
    if resume and not out:
        raise DataError("--resume continues a file: name it with --out.")
    given = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file else [])]
    texts = options.answered(given, chat=chat, system=system)
    if not texts:
        raise DataError("no prompts: give some as arguments, in a file, or on standard input.")
    steering = parse_steering(steer or [], hold or [])
    if engine == "vllm":
        for setting in steering.settings:
            check_counted(setting, "--engine vllm")
    if stream and (len(texts) * len(steering.settings) * num_samples != 1 or out or as_json):
        raise DataError("--stream prints one continuation: give one prompt and one strength of each steer.")
    if stream:
        steers, strengths = steering.steers(), steering.single("--stream")
        print_stream(texts[0], lmsteer.stream(lmsteer.load(model), texts[0], steers, strengths, config))
    elif out:
        _to_file(texts, steering, config, out, model, resume, llm_arguments if engine == "vllm" else None)
        note(f"{len(texts) * len(steering.settings) * num_samples} continuations written to {out}.")
    else:
        from lmsteer.generation.bulk import writer_of

        lines = writer_of(lmsteer.load(model), steering.steers(), steering.settings, config, bars())(texts, 0)
        print_json_lines(lines) if as_json else print_continuations(stdout, lines)


def _to_file(
    texts: list[Prompt],
    steering: RequestedSteers,
    config: GenerationConfig,
    out: Path,
    model: str,
    resume: bool,
    llm_arguments: dict[str, Any] | None,
) -> None:
    """Write continuations to a file, with vLLM if there are arguments for it."""
    check_bulk_target(out, resume=resume)

    from lmsteer.generation.bulk import BulkRequest, generate_to_file

    request = BulkRequest(model, texts, steering.steers(), steering.settings, config)
    if llm_arguments is None:
        generate_to_file(lmsteer.load(model), request, out, resume=resume, progress=bars())
    else:
        from lmsteer.serving.vllm.offline import generate_to_file as generate_with_vllm

        generate_with_vllm(request, out, llm_arguments, resume=resume, progress=bars())


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, with any value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _json_object(notation: str) -> dict[str, Any]:
    try:
        arguments = parse_json(notation)
    except ValueError as error:
        raise DataError(f"--engine-options is not JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise DataError("--engine-options is a JSON object of arguments.")
    return arguments
