"""Which server runs at an address, and what it calls a steer. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmsteer.errors import SteerError
from lmsteer.serving.verification.client import JsonClient, ServerError
from lmsteer.serving.verification.engine import Program, Server
from lmsteer.serving.verification.llama_server import LlamaServer
from lmsteer.serving.verification.openai_server import OpenAIServer
from lmsteer.steer.hub import origin_of, parse_hub_id

# By whom the models of ``/v1/models`` are owned, on the servers that have steers.
_PROGRAMS: Mapping[str, Program] = {"lmsteer": "lmsteer", "vllm": "vLLM", "llamacpp": "llama.cpp"}


def name_on_server(folder: Path) -> str:
    """What servers call the steer of a folder: by the folder's name, or by the Hub id that it was fetched from."""
    hub_id = parse_hub_id(origin_of(folder)) if origin_of(folder) else None
    return hub_id.repository if hub_id else folder.resolve().name


def check_strength(strength: float) -> None:
    """Refuse a strength at which nothing can be measured.

    Raises:
        SteerError: the strength is 0.
    """
    if strength == 0:
        raise SteerError("at strength 0 no steer acts: verify it at another strength.")


def connect(client: JsonClient, steer: str, strength: float) -> Server:
    """Find out which server it is, and that it has a steer.

    Args:
        client: how it is asked.
        steer: the name of the steer on the server.
        strength: a strength that it is asked for.

    Raises:
        ServerError: it cannot be reached, is another program, or has no such steer.
        SteerError: the strength is 0.
    """
    check_strength(strength)
    models = client.get("/v1/models")
    try:
        model, owner = str(models["data"][0]["id"]), models["data"][0].get("owned_by")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ServerError(f"{client.url}/v1/models lists no model: no server of OpenAI's API?") from error
    if owner not in _PROGRAMS:
        raise ServerError(
            f"the server at {client.url} has no steers: {model!r} is served by {owner!r}, and only the server of "
            "lmsteer, vLLM with lmsteer's plugin, and llama-server with an adapter of lmsteer have them."
        )
    program = _PROGRAMS[owner]
    server: Server = (
        LlamaServer.connect(client, model) if program == "llama.cpp" else OpenAIServer.connect(client, program, model)
    )
    server.complete("It", 1, steer, strength)
    return server
