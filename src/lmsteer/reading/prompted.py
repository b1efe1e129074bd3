"""Encoding of texts after prompts.

The tokens are those of the whole, prompt and text as they stand. The text begins at the first token in which the whole
differs from the prompt alone: a token on both sides of the border is the text's, since the model that is given the
prompt alone has to predict what such a token says. The prompt is read as it is when the model continues it, without a
start token that the tokenizer does not put there itself. A chat is written by the tokenizer's template; the end of the
answer is the token that ends its turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmsteer.data.chats import Chat, Prompt
from lmsteer.errors import DataError
from lmsteer.model.chat import answer_bounds, encode_answer
from lmsteer.model.codec import Bounds, shortened
from lmsteer.model.lm import LM
from lmsteer.reading.encode import end_tokens, ends_itself
from lmsteer.reading.encoded_text import EncodedText


def encode_after(lm: LM, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[EncodedText]:
    """The ids of prompts, each with the text after it and its end.

    Raises:
        DataError: a text that holds half of a surrogate pair, or a token that the model cannot read; or a chat that
            the tokenizer's template cannot write (``encode_answer``).
    """
    plain = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
    of_plain = _encode_plain(lm, [str(prompts[i]) for i in plain], [texts[i] for i in plain])
    found = dict(zip(plain, of_plain, strict=True))
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, Chat):
            try:
                answer = encode_answer(lm.codec, prompt, texts[i])
            except DataError as error:
                raise DataError(f"text {i + 1}, {shortened(texts[i])}: {error}") from error
            begin = shared_length(answer.prompt, answer.whole)
            found[i] = EncodedText.of(answer.whole, begin, is_ended=answer.is_ended)
    return [found[i] for i in range(len(texts))]


def encode_after_with_offsets(lm: LM, prompt: Prompt, text: str) -> tuple[EncodedText, list[Bounds]]:
    """The ids of a prompt with the text after it and its end, and the characters of the text that each covers.

    Tokens of the prompt, and the end, cover none.

    Raises:
        DataError: as ``encode_after``.
        ModelError: the tokenizer cannot tell which characters its tokens cover.
    """
    (encoded,) = encode_after(lm, [prompt], [text])
    if isinstance(prompt, Chat):
        return encoded, answer_bounds(lm.codec, prompt, text)
    _, bounds = lm.codec.encode_with_offsets(prompt + text)
    own = [(max(start - len(prompt), 0), max(end - len(prompt), 0)) for start, end in bounds]
    behind = (len(text), len(text))
    return encoded, [*own[: len(encoded) - encoded.is_ended], *([behind] if encoded.is_ended else [])]


def _encode_plain(lm: LM, prompts: Sequence[str], texts: Sequence[str]) -> list[EncodedText]:
    drop, after = int(ends_itself(lm)), end_tokens(lm)
    before = [ids[: len(ids) - drop] for ids in lm.encode(prompts)]
    whole = [ids[: len(ids) - drop] for ids in lm.encode([p + text for p, text in zip(prompts, texts, strict=True)])]
    return [
        EncodedText.of([*ids, *after], shared_length(start, ids), is_ended=bool(after))
        for start, ids in zip(before, whole, strict=True)
    ]


def shared_length(start: Sequence[int], whole: Sequence[int]) -> int:
    """With how many ids both sequences begin that are the same."""
    pairs = zip(start, whole, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(start), len(whole)))
