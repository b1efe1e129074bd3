"""A running server whose requests choose their own steers. Nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lmsteer.serving.remote.client import JsonClient, RefusedError

Kind = Literal["lmsteer", "vLLM", "llama.cpp"]
# Number of likeliest tokens whose log-probabilities are asked for.
TOP = 5
# No steer has this name.
_UNKNOWN = "no-steer-has-this-name"


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
class Server(ABC):
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

    @abstractmethod
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

    def refuses_unknown_steers(self) -> bool | None:
        """Whether it refuses a request that names a steer that it does not have; None if requests have no names."""
        try:
            self.complete("It", 1, _UNKNOWN, 1.0)
        except RefusedError as error:
            if error.status not in (400, 404):
                raise
            return True
        return False
