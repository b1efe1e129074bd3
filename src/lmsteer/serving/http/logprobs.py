"""The log-likelihoods of a sequence's tokens, in the formats of completions and of chats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lmsteer.serving.engine.logprobs import TokenLogprob
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames, TokenTexts

# The decoded form of a part of a character.
_PARTIAL = "\N{REPLACEMENT CHARACTER}"


class SequenceLogprobs:
    """Writes the log-likelihoods of one sequence, all at once or chunk by chunk.

    Args:
        names: the texts of tokens.
        ids: the token ids of the prompt.
        echoed: the text of the prompt, where that belongs to the sequence.
        as_ids: whether tokens are called by their ids.
    """

    def __init__(self, names: TokenNames, ids: Sequence[int], echoed: str, *, as_ids: bool = False) -> None:
        self._names, self._ids, self._as_ids = names, ids, as_ids
        self._texts = TokenTexts(names.codec, names, echoed)

    def completion(self, choice: Choice) -> dict[str, list[Any]]:
        """In the format of completions: one list for each kind of value."""
        lines: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        texts = self._texts

        def add(token: int, logprob: TokenLogprob | None, *, last: bool = False) -> None:
            lines["text_offset"].append(texts.offset)
            text = texts.add(token, last=last)
            lines["tokens"].append(self._shown(token, text))
            lines["token_logprobs"].append(None if logprob is None else _finite(logprob.log_p))
            # Tokens with the same text (parts of characters, say) share a key: the likeliest comes last and stays.
            top = None if logprob is None else reversed([*self._top(text, logprob)])
            lines["top_logprobs"].append(None if top is None else {self._shown(i, name): p for i, name, p in top})

        if choice.prompt is not None:
            for token, logprob in zip(self._ids, [None, *choice.prompt], strict=True):  # nothing predicts the first
                add(token, logprob)
            texts.end_prompt()
        for place, logprob in enumerate(choice.logprobs, 1):
            add(logprob.token, logprob, last=choice.finish is not None and place == len(choice.logprobs))
        return lines

    def chat(self, choice: Choice) -> Iterator[dict[str, Any]]:
        """In the format of chats: one object for each token."""
        for place, logprob in enumerate(choice.logprobs, 1):
            last = choice.finish is not None and place == len(choice.logprobs)
            text = self._texts.add(logprob.token, last=last)
            top = [self._entry(*each) for each in self._top(text, logprob)]
            yield {**self._entry(logprob.token, text, _finite(logprob.log_p)), "top_logprobs": top}

    def _top(self, text: str, logprob: TokenLogprob) -> Iterator[tuple[int, str, float]]:
        """The likeliest tokens at the place of a token with this text: their ids, texts and log-likelihoods."""
        for token, log_p in logprob.top.items():
            yield token, text if token == logprob.token else self._names(token), _finite(log_p)

    def _entry(self, token: int, text: str, log_p: float) -> dict[str, Any]:
        # The bytes of a part of a character are not known here; null is allowed by OpenAI's format.
        as_bytes = None if _PARTIAL in text else list(text.encode())
        return {"token": self._shown(token, text), "logprob": log_p, "bytes": as_bytes}

    def _shown(self, token: int, text: str) -> str:
        """What a token with this text is called in the response."""
        return f"token_id:{token}" if self._as_ids else text


def _finite(log_p: float) -> float:
    """A number for JSON, which has no infinity; OpenAI uses the same number for it."""
    return log_p if math.isfinite(log_p) else -9999.0
