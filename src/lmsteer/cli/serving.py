"""The command that serves: serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lmsteer.cli.app import Model, app, stderr
from lmsteer.errors import LMSteerError
from lmsteer.model.sources.resolve import DEFAULT_MODEL

_KEY = "LMSTEER_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@app.command()
def serve(
    model: Model = DEFAULT_MODEL,
    steers: Annotated[list[Path] | None, typer.Option(help="Folder of steers; repeatable.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    api_key: Annotated[
        list[str] | None, typer.Option(help=f"Key that requests must know; repeatable. [env var: {_KEY}]")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a prompt and its answer, at most.")] = None,
    rows: Annotated[int, typer.Option(help="Answers written at once.")] = 32,
    waiting: Annotated[int, typer.Option(help="Answers that may wait; more are told to come again.")] = 128,
    tokens: Annotated[int, typer.Option(help="Tokens whose keys and values are kept at once.")] = 32_768,
    seconds: Annotated[float, typer.Option(help="That an answer may take.")] = 120.0,
    page: Annotated[bool, typer.Option(help="Also serve a web page.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse strengths outside the safe range.")] = False,
) -> None:
    """Serve a model with a strength for each steer and request, as OpenAI's clients ask.

    Example: lmsteer serve --port 8000
    """
    try:
        from lmsteer.serving.engine.engine import EngineConfig
        from lmsteer.serving.http.run import ServerSettings, ServiceConfig, create_service
        from lmsteer.serving.http.run import serve as run
    except ImportError as error:
        raise LMSteerError(f"the server needs {error.name}: pip install 'lmsteer[serve]'.") from error
    from lmsteer.model.loading import load
    from lmsteer.steer.lookup import SHIPPED_FOLDER, STEERS_FOLDER

    keys = api_key or ([os.environ[_KEY]] if _KEY in os.environ else [])
    if host not in _LOOPBACK and not keys:
        stderr.print(f"anybody who reaches {host} may use this server: --api-key sets a key.", style="yellow")
    if missing := [str(folder) for folder in steers or [] if not folder.is_dir()]:
        raise LMSteerError(f"--steers names {', '.join(missing)}, which is no folder.")
    folders = [*(steers or [STEERS_FOLDER]), SHIPPED_FOLDER]
    serving = ServiceConfig(
        EngineConfig(rows, waiting, tokens), context, timeout=seconds, strict=strict, folders=folders
    )
    service = create_service(load(model), serving)
    found = ", ".join(service.registry.names()) or "none"
    where = f"http://{host}:{port}"
    stderr.print(f"{service.name} at {where}/v1, steers: {found}. Stop with Ctrl-C.", highlight=False)
    if page:
        stderr.print(f"The page is at {where}/ui, what can be asked at {where}/docs.", highlight=False)
    run(service, ServerSettings(host, port, keys, page=page))
