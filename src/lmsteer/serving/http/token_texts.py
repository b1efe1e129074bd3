"""The text of each token of a sequence: put together, the texts of its tokens give the sequence's own."""

from __future__ import annotations

from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.model.codec import Codec

# A letter in front of a token shows whether the token begins with a space, which some tokenizers drop at the beginning.
_BEFORE = "a"


class TokenNames:
    """The text of any token that could stand somewhere, whatever precedes it.

    Args:
        codec: the model's tokenizer.

    Attributes:
        codec: the model's tokenizer.
    """

    def __init__(self, codec: Codec) -> None:
        self.codec, (self._before,) = codec, codec.tokenize([_BEFORE], special=False)
        self._names: dict[int, str] = {}

    def is_special(self, token: int) -> bool:
        """Whether a generated text is without it, as without the end of text."""
        return token in self.codec.special_tokens

    def __call__(self, token: int) -> str:
        """The text of a token."""
        if token not in self._names:
            self._names[token] = self._decode(token)
        return self._names[token]

    def _decode(self, token: int) -> str:
        if not self.is_special(token):
            before, both = (
                self.codec.decode(ids, skip_special=False) for ids in (self._before, [*self._before, token])
            )
            if both.startswith(before):
                return both[len(before) :]
        return self.codec.decode([token], skip_special=False)


class TokenTexts:
    """The texts of a sequence's tokens, one after the other. A character of several tokens counts for its last one.

    Args:
        codec: the model's tokenizer.
        names: the texts of special tokens.
        prompt: the text of the prompt, where that belongs to the sequence.

    Attributes:
        offset: number of characters of the sequence's text before the next token.
    """

    def __init__(self, codec: Codec, names: TokenNames, prompt: str = "") -> None:
        self._names, self._prompt = names, prompt
        self._text = Detokenizer(codec)
        self.offset = 0

    def add(self, token: int, *, last: bool = False) -> str:
        """The text of the next token. A special token that the sequence's text is without takes no place in it."""
        text = self._text.add(token) + (self._text.end() if last else "")
        if not self._names.is_special(token):
            self.offset += len(text)
            return text
        name = self._names(token)
        self.offset += len(text) + len(name) * self._prompt.startswith(name, self.offset)
        return text + name

    def end_prompt(self) -> None:
        """What follows stands after the prompt."""
        self.offset, self._prompt = len(self._prompt), ""
