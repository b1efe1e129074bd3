"""Text as it is written: tokens become pieces that later tokens do not change, and end before a stop."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# What bytes that are no whole character yet are decoded as.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one row.

    Args:
        tokenizer: of the model.
        stop: strings before which the text ends.

    Attributes:
        stopped: whether one of them has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._ids: list[int] = []
        self._context, self._told = 0, 0  # ids from which on is decoded, and up to which text has been given
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What is certain of the text with one more token, beside what was given before."""
        self._ids.append(token)
        return self._given(self._fresh(), last=False)

    def end(self) -> str:
        """What was held back, when no token follows."""
        return self._given(self._fresh(last=True), last=True)

    def _fresh(self, last: bool = False) -> str:
        """Text of the ids that has not been seen; a few are decoded again for it, on which a token's spaces hang."""
        before, whole = (self._decoded(self._ids[self._context : end]) for end in (self._told, None))
        if len(whole) <= len(before) or (whole.endswith(_UNFINISHED) and not last):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return whole[len(before) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _given(self, fresh: str, last: bool) -> str:
        """Hold back what may be the beginning of a stop; drop all from a stop on."""
        if self.stopped:
            return ""
        text = self._held + fresh
        found = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.stopped, self._held = True, ""
            return text[:found]
        keep = 0 if last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
