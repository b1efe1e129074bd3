"""A running server whose requests choose their own steers: which one it is, and how it is asked.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmsteer.errors import SteerError
from lmsteer.serving.remote.client import JsonClient, RefusedError, ServerError
from lmsteer.steer.hub import origin_of, parse_hub_id

Kind = Literal["lmsteer", "vLLM"]
# By whom the models of ``/v1/models`` are owned, on the servers that have steers.
_KINDS: Mapping[str, Kind] = {"lmsteer": "lmsteer", "vllm": "vLLM"}
# No steer has this name.
_UNKNOWN = "no-steer-has-this-name"
# Number of likeliest tokens whose log-probabilities are asked for.
_TOP = 5


@dataclass(frozen=True)
class Written:
    """What a server has written after a prompt, always the likeliest token.

    Attributes:
        tokens: the ids of the tokens.
        log_p: at each place the log-probabilities of the token and of the likeliest ones, by their ids.
    """

    tokens: Sequence[int]
    log_p: Sequence[Mapping[int, float]]


@dataclass(frozen=True)
class Server:
    """A server that has steers.

    Attributes:
        client: how it is asked.
        kind: which program it is.
        version: the version of that program; None if the server does not say.
        model: what it calls its model.
    """

    client: JsonClient
    kind: Kind
    version: str | None
    model: str

    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt.

        Args:
            prompt: token ids, or a text.
            max_tokens: the most tokens to write.
            steer: the name of a steer on the server.
            strength: its strength; None for a request that names no steer.

        Raises:
            RefusedError: the server refuses the request.
            ServerError: its answer cannot be used.
        """
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "repetition_penalty": 1,  # vLLM would take that of the model's own generation config
            "logprobs": _TOP,
            "return_tokens_as_token_ids": True,
        }
        named = {} if strength is None else self._named(steer, strength)
        return _written(self.client.url, self.client.post("/v1/completions", {**body, **named}))

    def refuses_unknown_steers(self) -> bool:
        """Whether the server refuses a request that names a steer that it does not have."""
        try:
            self.complete("It", 1, _UNKNOWN, 1.0)
        except RefusedError as error:
            if error.status not in (400, 404):
                raise
            return True
        return False

    def _named(self, steer: str, strength: float) -> dict[str, Any]:
        """The fields of a request that name a steer."""
        if self.kind == "lmsteer":
            return {"steers": {steer: strength}}
        return {"vllm_xargs": {"steers": f"{steer}={strength!r}"}}


def name_on_server(folder: Path) -> str:
    """What servers call the steer of a folder: by the folder's name, or by the Hub id that it was fetched from."""
    hub_id = parse_hub_id(origin_of(folder)) if origin_of(folder) else None
    return hub_id.repository if hub_id else folder.resolve().name


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
    if strength == 0:
        raise SteerError("at strength 0 no steer acts: verify it at another strength.")
    models = client.get("/v1/models")
    try:
        model, owner = str(models["data"][0]["id"]), models["data"][0].get("owned_by")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ServerError(f"{client.url}/v1/models lists no model: no server of OpenAI's API?") from error
    if owner not in _KINDS:
        raise ServerError(
            f"the server at {client.url} has no steers: {model!r} is served by {owner!r}, and only the server of "
            "lmsteer and vLLM with lmsteer's plugin have them."
        )
    server = Server(client, _KINDS[owner], _version(client, _KINDS[owner]), model)
    if server.kind == "vLLM" and not server.refuses_unknown_steers():
        raise ServerError(
            f"vLLM at {client.url} has no steers: it answers a request for one that does not exist. Install lmsteer in "
            "its environment, and name the folders of its steers in LMSTEER_STEERS."
        )
    server.complete("It", 1, steer, strength)
    return server


def _version(client: JsonClient, kind: Kind) -> str | None:
    try:
        said = (
            client.get("/openapi.json")["info"]["version"] if kind == "lmsteer" else client.get("/version")["version"]
        )
    except (ServerError, LookupError, TypeError, ValueError):
        return None
    return str(said)


def _written(url: str, answer: Any) -> Written:
    """The tokens of an answer and their log-probabilities.

    Raises:
        ServerError: the answer has another shape.
    """
    try:
        lines = answer["choices"][0]["logprobs"]
        tokens = [_id(name) for name in lines["tokens"]]
        log_p = [
            {**{_id(name): float(value) for name, value in top.items()}, token: float(own)}
            for token, own, top in zip(tokens, lines["token_logprobs"], lines["top_logprobs"], strict=True)
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"an answer of {url} has no log-probabilities of tokens that are named by ids.") from error
    if not tokens:
        raise ServerError(f"an answer of {url} has no tokens.")
    return Written(tokens, log_p)


def _id(name: str) -> int:
    """The token that ``token_id:42`` names."""
    before, found, token = name.partition("token_id:")
    if before or not found:
        raise ValueError(name)
    return int(token)
