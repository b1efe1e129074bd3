"""llama-server, whose requests choose the scales of the adapters that it has loaded. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

from lmsteer.serving.remote.client import JsonClient, RefusedError, ServerError
from lmsteer.serving.remote.server import TOP, Server, Written


@dataclass(frozen=True)
class LlamaServer(Server):
    """llama.cpp's server with steers as adapters, whose names are those of their files.

    Attributes:
        adapters: the numbers of the adapters by their names.
    """

    adapters: Mapping[str, int]

    @classmethod
    def connect(cls, client: JsonClient, model: str) -> Self:
        """Find out which adapters it has.

        Raises:
            ServerError: it has none, or applies one to requests that name none.
        """
        try:
            listed = client.get("/lora-adapters")
            adapters = {PurePath(each["path"]).stem: int(each["id"]) for each in listed}
            scales = {PurePath(each["path"]).stem: float(each["scale"]) for each in listed}
            version = client.get("/props").get("build_info")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"{client.url}/lora-adapters does not list adapters as llama-server does.") from error
        if not adapters:
            raise ServerError(
                f"llama-server at {client.url} has no adapters: write one with `lmsteer export --to gguf-lora`, and "
                "start it with --lora-scaled NAME.gguf:0."
            )
        if acting := [name for name, scale in scales.items() if scale]:
            raise ServerError(
                f"llama-server at {client.url} applies {', '.join(acting)} to requests that name no adapter: start it "
                f"with --lora-scaled {acting[0]}.gguf:0."
            )
        return cls(client, "llama.cpp", None if version is None else str(version), model, adapters)

    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt, as in ``Server``."""
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0,
            "repeat_penalty": 1,
            "n_probs": TOP,
            "post_sampling_probs": False,
            "cache_prompt": False,
        }
        named = {} if strength is None else {"lora": [{"id": self._number(steer), "scale": strength}]}
        return _written(self.client.url, self.client.post("/completion", {**body, **named}))

    def refuses_unknown_steers(self) -> None:
        """Nothing: requests name adapters by their numbers, and one that does not exist is ignored."""

    def _number(self, steer: str) -> int:
        """The number of an adapter.

        Raises:
            RefusedError: the server has none of that name; requests name adapters by numbers alone.
        """
        if steer not in self.adapters:
            raise RefusedError(
                f"llama-server at {self.client.url} has no adapter {steer}.gguf: it has {', '.join(self.adapters)}. "
                "Name the file after the steer.",
                404,
            )
        return self.adapters[steer]


def _written(url: str, answer: Any) -> Written:
    """The tokens of an answer and their log-probabilities.

    Raises:
        ServerError: the answer has another shape.
    """
    try:
        places = answer["completion_probabilities"]
        tokens = [int(place["id"]) for place in places]
        log_p = [
            {
                **{int(each["id"]): float(each["logprob"]) for each in place["top_logprobs"]},
                int(place["id"]): float(place["logprob"]),
            }
            for place in places
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise ServerError(f"an answer of {url} has no log-probabilities of tokens.") from error
    if not tokens:
        raise ServerError(f"an answer of {url} has no tokens.")
    return Written(tokens, log_p)
