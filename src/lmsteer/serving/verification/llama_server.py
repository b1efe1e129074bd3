"""llama-server, whose requests choose the scales of the adapters that it has loaded. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

from lmsteer.serving.verification.client import JsonClient, RefusedError, ServerError
from lmsteer.serving.verification.engine import TOP, Server, Written


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
            listed = [
                (PurePath(each["path"]).stem, int(each["id"]), float(each["scale"]))
                for each in client.get("/lora-adapters")
            ]
            version = client.get("/props").get("build_info")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(f"{client.url}/lora-adapters does not list adapters as llama-server does.") from error
        adapters = {name: number for name, number, _ in listed}
        if not adapters:
            raise ServerError(
                f"llama-server at {client.url} has no adapters: write one with `lmsteer export --to gguf-lora`, and "
                "start it with --lora-scaled NAME.gguf:0."
            )
        if len(adapters) < len(listed):
            raise ServerError(f"llama-server at {client.url} has several adapters of one name: rename the files.")
        if any(scale for _, _, scale in listed):
            raise ServerError(
                f"llama-server at {client.url} applies adapters to requests that name none: start it with "
                f"--lora-scaled {','.join(f'{name}.gguf:0' for name in adapters)}."
            )
        return cls("llama.cpp", None if version is None else str(version), model, client, adapters)

    def complete(
        self, prompt: Sequence[int] | str, max_tokens: int, steer: str = "", strength: float | None = None
    ) -> Written:
        """Continue a prompt, as in ``Engine``."""
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0,
            "repeat_penalty": 1,
            "n_probs": TOP,
            "post_sampling_probs": False,
            "return_tokens": True,
        }
        named = {} if strength is None else {"lora": [{"id": self._number(steer), "scale": strength}]}
        return _written(self.client.url, self.client.post("/completion", {**body, **named}))

    def refuses_unknown_steers(self) -> None:
        """Return None: requests name adapters by their numbers, and one that does not exist is ignored."""

    def _number(self, steer: str) -> int:
        """The number of an adapter.

        Raises:
            RefusedError: the server has none of that name; requests name adapters by numbers alone.
        """
        name = PurePath(steer).name  # of a steer of the Hub, without its owner
        if name not in self.adapters:
            raise RefusedError(
                f"llama-server at {self.client.url} has no adapter {name}.gguf: it has {', '.join(self.adapters)}. "
                "Name the file after the steer.",
                404,
            )
        return self.adapters[name]


def _written(url: str, answer: Any) -> Written:
    """The tokens of an answer and their log-probabilities, up to the first token that has none.

    A token that ends within a character has none: the text is not complete there.

    Raises:
        ServerError: the answer has another shape, or no log-probabilities.
    """
    tokens, log_p = list[int](), list[dict[int, float]]()
    try:
        for token, place in zip(answer["tokens"], answer["completion_probabilities"], strict=False):
            if token != place["id"] or not place["top_logprobs"]:
                break
            top = {int(each["id"]): float(each["logprob"]) for each in place["top_logprobs"]}
            tokens.append(int(token))
            log_p.append({**top, int(token): float(place["logprob"])})
    except (LookupError, TypeError, ValueError) as error:
        raise ServerError(f"an answer of {url} has no log-probabilities of tokens.") from error
    if not tokens:
        raise ServerError(
            f"an answer of {url} has no tokens with log-probabilities. Speculative decoding leaves them out: switch it "
            "off for this."
        )
    return Written(tokens, log_p)
