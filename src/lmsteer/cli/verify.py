"""The command ``verify``: proof that a steer acts on its base model, here or on a running server."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stdout, warn
from lmsteer.cli.output.common import print_json
from lmsteer.cli.output.verification import print_engine_verification, print_verification
from lmsteer.cli.serve import KEY
from lmsteer.data.labelled import LabelledSource
from lmsteer.data.labels import parse_label_map
from lmsteer.errors import DataError, ModelError, SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.lookup import find_card, find_folder
from lmsteer.util.records import FormatError, from_record

if TYPE_CHECKING:
    from lmsteer.model.lm import LM
    from lmsteer.serving.verification.verify import EngineVerification

# Seconds. A large model may compile when it answers its first request.
_PATIENCE = 60.0

Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Measure the steer on this running server: `lmsteer serve`, vLLM with lmsteer's plugin, or llama-server "
        "with an adapter of lmsteer; --model names the same model here, which foretells the results "
        "(default: measure on --model itself).",
    ),
]
Engine = Annotated[
    Literal["peft", "vllm", "llamacpp"] | None,
    typer.Option(
        help="Measure the steer in this engine: peft (a LoRA in transformers, in this process; needs the extra "
        "'methods'), vllm or llamacpp (`vllm serve` or `llama-server`, started for the time of the check)."
    ),
]
EngineOptions = Annotated[
    str | None,
    typer.Option(
        metavar="OPTIONS",
        help="Options of the program that --engine starts, such as '--dtype float32' for vllm (default: none).",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option(help=f"Key that the server asks for (default: that of the environment's {KEY}, if any).")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        callback=options.more_than(0),
        help=f"Longest time to wait until the server says something, in seconds (default: {_PATIENCE:g}).",
    ),
]


@app.command()
def verify(
    steer: options.SteerName,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Labelled texts (default: those that the steer was fitted on, if present)."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column that holds the texts (default: as fitted).")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column that holds the labels (default: as fitted).")] = None,
    label_map: Annotated[
        str | None,
        typer.Option(help="Numbers of class labels, such as 'negative=-1,positive=1' (default: as fitted)."),
    ] = None,
    strength: Annotated[float, typer.Option(help="Strength at which the steer is checked.")] = 1.0,
    server: Server = None,
    engine: Engine = None,
    engine_options: EngineOptions = None,
    api_key: ApiKey = None,
    timeout: Timeout = None,
    model: options.Model = options.DEFAULT_MODEL,
    as_json: options.AsJson = False,
) -> None:
    """Prove with numbers that a steer acts on its base model, and how much; exit status 1 if it does not.

    Example: lmsteer verify sentiment --data held_out.jsonl
    """
    describes = bool(text_column or label_column or label_map)
    _check_options_of_engines(server, engine, engine_options, api_key, timeout)
    _check_options(server, engine, data, describes)
    if server is not None:
        _verify_on_server(steer, strength, server, api_key or os.environ.get(KEY), timeout or _PATIENCE, model, as_json)
        return
    if engine == "peft":
        _verify_in_peft(steer, strength, model, as_json)
        return
    if engine is not None:
        _verify_in_started(engine, _words(engine_options), steer, strength, timeout or _PATIENCE, model, as_json)
        return
    chosen = {
        "path": data,
        "text_column": text_column,
        "label_column": label_column,
        "label_map": parse_label_map(label_map) if label_map else None,
    }
    card = find_card(steer)
    source, held_none_out = _source(card, chosen), data is None and "folds" in card.fit
    texts = source.read(warn) if data or (Path(source.path).is_file() and not held_none_out) else []
    loaded, lm = lmsteer.find_steer(steer), lmsteer.load(model)
    base = _base_here(loaded.card, lm)
    verification = lmsteer.verify(lm, loaded, texts, fitted_on=data is None, strength=strength, base=base)
    if as_json:
        print_json(verification.to_json())
    else:
        print_verification(stdout, verification, loaded.card, source.path)
    if not verification.acts:
        raise typer.Exit(1)


def _check_options(server: str | None, engine: str | None, data: str | None, describes: bool) -> None:
    """Refuse options that do not go together; ``describes`` says whether there are some of a file of texts."""
    if server and engine:
        raise DataError("--server and --engine name two engines: leave out one.")
    if (server or engine) and (data or describes):
        raise DataError("no labelled texts are measured on another engine: leave out --data, or --server and --engine.")
    if describes and data is None:
        raise DataError("--text-column, --label-column and --label-map describe --data: name the file, too.")


def _check_options_of_engines(
    server: str | None, engine: str | None, engine_options: str | None, api_key: str | None, timeout: float | None
) -> None:
    """Refuse options of an engine where there is none that has them."""
    starts = engine in ("vllm", "llamacpp")
    if (timeout is not None and not (server or starts)) or (api_key is not None and not server):
        raise DataError("--timeout is for --server and for an --engine that is started, --api-key for --server alone.")
    if engine_options is not None and not starts:
        raise DataError("--engine-options is for --engine vllm and --engine llamacpp: name one.")


def _verify_on_server(
    steer: str, strength: float, url: str, key: str | None, timeout: float, model: str, as_json: bool
) -> None:
    """Measure a steer on a running server, which is asked for it before the model is loaded."""
    from lmsteer.serving.verification.client import JsonClient
    from lmsteer.serving.verification.connect import connect, name_on_server

    find_card(steer)
    name = name_on_server(find_folder(steer))
    connected = connect(JsonClient(url, key, timeout), name, strength)
    from lmsteer.serving.verification.verify import verify_engine

    _report(verify_engine(connected, name, lmsteer.load(model), lmsteer.find_steer(steer), strength), as_json)


def _verify_in_peft(steer: str, strength: float, model: str, as_json: bool) -> None:
    """Measure a steer as a LoRA of PEFT, on a second copy of the model."""
    from lmsteer.serving.verification.connect import check_strength
    from lmsteer.serving.verification.peft_engine import PeftEngine
    from lmsteer.serving.verification.verify import verify_engine

    loaded, name = lmsteer.find_steer(steer), find_card(steer).name
    check_strength(strength)
    with PeftEngine.loaded(lmsteer.load(model), loaded) as engine:
        _report(verify_engine(engine, name, lmsteer.load(model), loaded, strength), as_json)


def _verify_in_started(
    engine: str, engine_options: list[str], steer: str, strength: float, timeout: float, model: str, as_json: bool
) -> None:
    """Measure a steer on the server of another engine, which is started and ended here."""
    from lmsteer.serving.verification.client import JsonClient
    from lmsteer.serving.verification.connect import check_strength, connect
    from lmsteer.serving.verification.started import STEER, llama_server, vllm_server
    from lmsteer.serving.verification.verify import verify_engine

    check_strength(strength)
    loaded, lm = lmsteer.find_steer(steer), lmsteer.load(model)
    loaded.card.check_base(lm)
    server = (
        vllm_server(loaded, model, engine_options)
        if engine == "vllm"
        else llama_server(lm, loaded, model, engine_options)
    )
    with server as url:
        connected = connect(JsonClient(url, None, timeout), STEER, strength)
        found = verify_engine(connected, STEER, lm, loaded, strength)
    _report(replace(found, steer=loaded.card.name), as_json)


def _words(text: str | None) -> list[str]:
    """The options of a program, divided as a shell does."""
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise DataError(f"--engine-options cannot be read: {error}.") from error


def _report(verification: EngineVerification, as_json: bool) -> None:
    """Print what was measured in another engine; exit status 1 if the steer does not act there as it should."""
    if as_json:
        print_json(verification.to_json())
    else:
        print_engine_verification(stdout, verification)
    if not verification.acts:
        raise typer.Exit(1)


def _base_here(card: Card, lm: LM) -> LM | None:
    """The base of a steer, where another model is used and the base is packaged or on this machine; else None."""
    card.check_base(lm)
    if card.base_fingerprint == lm.fingerprint:
        return None
    try:
        base = lmsteer.load(card.base, local_files_only=True)
    except ModelError:
        return None
    return base if base.fingerprint == card.base_fingerprint else None


def _source(card: Card, chosen: dict[str, Any]) -> LabelledSource:
    """The texts of the fit, or the chosen file, read as in the fit where nothing else was chosen."""
    recorded = card.data.get("source", {})
    try:
        source = from_record(LabelledSource, {"path": "", **recorded} if isinstance(recorded, dict) else recorded)
    except FormatError as error:
        raise SteerError(f"the card of {card.title} does not say where its texts are: {error}.") from error
    if chosen["path"] is None:
        return source
    return replace(source, limit=None, **{name: value for name, value in chosen.items() if value is not None})
