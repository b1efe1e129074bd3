"""A program that runs a model with steers whose strengths each request chooses. Nothing here imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lmsteer.serving.verification.client import JsonClient, RefusedError

Program = Literal["lmsteer", "vLLM", "llama.cpp", "PEFT"]
# Number of likeliest tokens whose log-probabilities are asked for.
TOP = 5
# No steer has this name.
_UNKNOWN = "no-steer-has-this-name"


@dataclass(frozen=True)
class Written:
    """What an engine has written after a prompt, always the likeliest token.

    Attributes:
        tokens: the ids of the tokens.
        log_p: at each place the log-probabilities of the token and of the likeliest ones, by their ids.
    """

    tokens: Sequence[int]
    log_p: Sequence[Mapping[int, float]]


@dataclass(frozen=True)
class Engine(ABC):
    """An engine that has steers.

    Attributes:
        program: which program it is.
        version: the version of that program; None if it does not say.
        model: what it calls its model.
    """

    program: Program
    version: str | None
    model: str

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it runs."""

    @abstractmethod
    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt.

        Args:
            prompt: token ids, or a text.
            max_tokens: the most tokens to write.
            steer: the name of a steer that it has.
            strength: its strength; None for a request that names no steer.

        Raises:
            RefusedError: it refuses the request.
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


@dataclass(frozen=True)
class Server(Engine):
    """An engine that answers over HTTP.

    Attributes:
        client: how it is asked.
    """

    client: JsonClient

    @property
    def address(self) -> str:
        """Its URL."""
        return self.client.url
