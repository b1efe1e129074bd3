"""Incremental detokenisation: tokens become text that later tokens cannot change, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from lmsteer.model.codec import Codec

# The decoded form of bytes that are not yet a whole character.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one sequence, token by token.

    Fast tokenizers decode with the stream decoder of ``tokenizers``. The others decode the last few tokens again,
    because the space before a token depends on the token that precedes it.

    Args:
        codec: the model's tokenizer.
        stop: strings that end the text; they are not part of it. One that is a special token, which has no text, ends
            it as a token.
        before: tokens that the text follows. Without any, it begins like a text of its own: some tokenizers drop the
            space in front of its first word.

    Attributes:
        stopped: whether a stop string has appeared.
    """

    def __init__(self, codec: Codec, stop: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._codec, self._stop, tokenizer = codec, stop, codec.tokenizer
        # The stream decoder knows nothing of the clean-up of spaces that some old tokenizers add.
        streams = tokenizer.is_fast and not getattr(tokenizer, "clean_up_tokenization_spaces", False)
        self._stream = DecodeStream(skip_special_tokens=True) if streams else None
        self._ids: list[int] = []
        # Text of ids before ``_decoded`` has been returned; decoding again starts at ``_context``.
        self._context, self._decoded = 0, 0
        self._held = ""
        added = tokenizer.added_tokens_encoder if stop else {}
        self._stop_ids = {added[string] for string in stop if string in added}
        self.stopped = False
        for token in before:
            self._new_text(token)

    def add(self, token: int) -> str:
        """The text that has become certain with one more token."""
        new = self._new_text(token)
        if token not in self._stop_ids or self.stopped:
            return self._until_stop(new, last=False)
        rest = self._until_stop(new, last=True)
        self.stopped = True
        return rest

    def end(self) -> str:
        """The rest of the text, when no token follows."""
        return self._until_stop(self._redecoded(last=True), last=True)

    def _new_text(self, token: int) -> str:
        self._ids.append(token)
        if self._stream is None:
            return self._redecoded()
        try:
            text = self._stream.step(self._codec.tokenizer.backend_tokenizer, token)
        except Exception:  # the decoder's text is not always a continuation of what it gave before
            self._stream = None
            return self._redecoded()
        if text:
            self._context, self._decoded = self._decoded, len(self._ids)
        return text or ""

    def _redecoded(self, last: bool = False) -> str:
        """The text of the ids that was not returned before, decoded together with the ids before it."""
        before, whole = (self._codec.decode(self._ids[self._context : end]) for end in (self._decoded, None))
        if len(whole) <= len(before) or (whole.endswith(_UNFINISHED) and not last):
            return ""
        self._context, self._decoded = self._decoded, len(self._ids)
        return whole[len(before) :]

    def _until_stop(self, new: str, last: bool) -> str:
        """Hold back what may be the beginning of a stop string; drop everything from a stop string on."""
        if self.stopped:
            return ""
        text = self._held + new
        own = before_stop(text, self._stop)
        if own != text:
            self.stopped, self._held = True, ""
            return own
        keep = 0 if last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The part of a text in front of the first stop string that stands in it."""
    return text[: min((at for string in stop if (at := text.find(string)) >= 0), default=None)]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that is a beginning of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
