"""A server of OpenAI's API whose requests name steers: that of lmsteer, and vLLM with lmsteer's plugin.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from lmsteer.serving.verification.client import JsonClient, ServerError
from lmsteer.serving.verification.engine import TOP, Program, Server, Written


class OpenAIServer(Server):
    """The server of lmsteer, or vLLM with lmsteer's plugin."""

    @classmethod
    def connect(cls, client: JsonClient, program: Program, model: str) -> Self:
        """Find out whether it has steers.

        Raises:
            ServerError: it is vLLM without the plugin.
        """
        server = cls(program, _version(client, program), model, client)
        if program == "vLLM" and not server.refuses_unknown_steers():
            raise ServerError(
                f"vLLM at {client.url} has no steers: it answers a request for one that does not exist. Install "
                "lmsteer in its environment, and name the folders of its steers in LMSTEER_STEERS."
            )
        return server

    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt, as in ``Engine``."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "repetition_penalty": 1,  # vLLM would take that of the model's own generation config
            "logprobs": TOP,
            "return_tokens_as_token_ids": True,
        }
        named = {} if strength is None else self._named(steer, strength)
        return _written(self.client.url, self.client.post("/v1/completions", {**body, **named}))

    def _named(self, steer: str, strength: float) -> dict[str, Any]:
        """The fields of a request that name a steer."""
        if self.program == "lmsteer":
            return {"steers": {steer: strength}}
        return {"vllm_xargs": {"steers": f"{steer}={strength!r}"}}


def _version(client: JsonClient, program: Program) -> str | None:
    try:
        said = (
            client.get("/openapi.json")["info"]["version"]
            if program == "lmsteer"
            else client.get("/version")["version"]
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
