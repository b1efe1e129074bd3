"""The command ``serve``: an HTTP server whose requests choose their own strengths."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lmsteer
from lmsteer.cli import options
from lmsteer.cli.app import app, stderr, warn
from lmsteer.errors import DataError, LMSteerError
from lmsteer.serving.starts.saved import check_folders_exist
from lmsteer.steer.hub import located, parse_hub_id
from lmsteer.steer.lookup import SHIPPED_FOLDER, STEERS_FOLDER

if TYPE_CHECKING:
    from lmsteer.serving.http.run import ServerSettings
    from lmsteer.serving.http.service import Service

KEY = "LMSTEER_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


Steers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of steers, or Hub id of one steer (ORG/NAME). Repeatable (default: steers/; those that ship are "
        "added).",
    ),
]
Gists = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of gists (NAME.gist of `gist compress`) that requests may name, and of the folders of their "
        "adapters where these do not ship. Repeatable (default: none).",
    ),
]
Baselines = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of baselines that requests may name, such as that of `compare`. Repeatable (default: none).",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 means all addresses of this machine.")]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(help=f"Key that requests must send. Repeatable (default: that of the environment's {KEY})."),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Origin whose web pages may use the server, like http://localhost:3000; * for all. Repeatable "
        "(default: none).",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(min=2, help="Maximum length of a prompt and its answer, in tokens (default: what the model allows)."),
]
MaxQueue = Annotated[
    int, typer.Option(min=0, help="Maximum number of waiting sequences; beyond it, requests get HTTP 429.")
]
MaxCacheTokens = Annotated[int, typer.Option(min=1, help="Size of the KV cache, in tokens over all sequences.")]
MaxPrefixTokens = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of tokens of earlier prompts to keep, for prompts that begin alike (one system prompt, a longer "
        "conversation); 0 keeps none.",
    ),
]
Timeout = Annotated[float, typer.Option(callback=options.more_than(0), help="Maximum time of a request, in seconds.")]


@app.command()
def serve(
    steers: Steers = None,
    gists: Gists = None,
    baselines: Baselines = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    api_key: ApiKey = None,
    allow_origin: AllowOrigin = None,
    max_model_len: MaxModelLen = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Maximum number of sequences generated at once.")] = 32,
    max_queue: MaxQueue = 128,
    max_cache_tokens: MaxCacheTokens = 32_768,
    max_prefix_tokens: MaxPrefixTokens = 4096,
    timeout: Timeout = 120.0,
    page: Annotated[bool, typer.Option(help="Serve a web page as well, at /ui.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse strengths outside the safe range.")] = False,
    model: options.Model = options.DEFAULT_MODEL,
) -> None:
    """Serve a model to clients of OpenAI's or Ollama's interface; each request chooses the strengths of its steers.

    Example: lmsteer serve --port 8000
    """
    if missing := [source for source in steers or [] if not Path(source).is_dir() and parse_hub_id(source) is None]:
        raise DataError(f"--steers names {', '.join(missing)}, which is neither a folder nor an id of the Hub.")
    for source in steers or []:
        located(source)  # those of the Hub are fetched before the model is loaded
    for option, given in (("--gists", gists), ("--baselines", baselines)):
        check_folders_exist(given or [], option)
    keys = api_key or ([os.environ[KEY]] if KEY in os.environ else [])
    if not all(key.strip() for key in keys):
        raise DataError("an API key is empty: it would let everybody in.")
    if host not in _LOOPBACK and not keys:
        warn(f"anybody who reaches {host} may use this server: --api-key sets a key.")
    if "*" in (allow_origin or []) and not keys:
        warn("any web page that is open in a browser here may use this server: --api-key sets a key.")
    try:
        from lmsteer.serving.engine.engine import EngineConfig
        from lmsteer.serving.http.run import ServerSettings, ServiceConfig, create_service
        from lmsteer.serving.http.run import serve as run
    except ImportError as error:
        raise LMSteerError(f"the server needs {error.name}: pip install 'lmsteer[serve]'.") from error
    settings = ServerSettings(host, port, keys, page=page, origins=allow_origin or [])
    folders: list[str | Path] = [*(steers or ()), *([] if steers else [STEERS_FOLDER]), SHIPPED_FOLDER]
    limits = EngineConfig(max_num_seqs, max_queue, max_cache_tokens, max_prefix_tokens=max_prefix_tokens)
    service = create_service(
        lmsteer.load(model),
        ServiceConfig(
            limits,
            max_model_len,
            timeout=timeout,
            strict=strict,
            folders=folders,
            gists=gists or [],
            baselines=baselines or [],
        ),
    )
    for reason in (*service.registry.refusals(), *service.starts.refusals):
        warn(f"left out: {reason}")
    run(service, settings, partial(_announce, service, settings))


def _announce(service: Service, settings: ServerSettings, port: int) -> None:
    """Say where the server listens, and what it serves."""
    names = ", ".join(service.registry.names()) or "none"
    where = f"http://{settings.host}:{port}"
    stderr.print(f"{service.name} at {where}/v1, steers: {names}. Stop with Ctrl-C.", highlight=False)
    for what, listed in service.starts.names().items():
        if listed:
            stderr.print(f"{what}: {', '.join(listed)}.", highlight=False)
    if settings.page:
        stderr.print(f"The web page is at {where}/ui, the description of the API at {where}/docs.", highlight=False)
