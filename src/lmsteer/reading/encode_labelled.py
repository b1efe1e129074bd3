"""Encoding of labelled texts as a fit reads them: after their prompts, or without a start token; to their end."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from lmsteer.data.labelled import LabelledText
from lmsteer.errors import DataError
from lmsteer.model.codec import shortened
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode
from lmsteer.reading.encoded_text import EncodedText, begin_of, count_predicted, is_ended
from lmsteer.reading.prompted import encode_after
from lmsteer.util.progress import notice


def encode_labelled(lm: LM, texts: Sequence[LabelledText], max_tokens: int | None = None) -> list[EncodedText]:
    """The ids of texts as a fit reads them: after their prompts, or without a start token; to their end.

    Args:
        lm: the model.
        texts: the labelled texts.
        max_tokens: longer texts are cut to this many tokens, those of the prompt not counted, or to what the prompt
            leaves of the model's context, and then have no end; None cuts none.

    Raises:
        DataError: texts longer than the model's context, if ``max_tokens`` is None; or ``max_tokens`` below 2.
    """
    if max_tokens is not None and max_tokens < 2:
        raise DataError(f"texts cannot be cut to {max_tokens} tokens; the least is 2.")
    encoded = encode_texts(lm, texts)
    limits = [min(len(ids), ids.begin + (max_tokens or len(ids)), lm.max_length) for ids in encoded]
    too_long = [i for i, ids in enumerate(encoded) if len(ids) > lm.max_length]
    if too_long and max_tokens is None:
        raise _too_long(lm, len(too_long), too_long[0], texts[too_long[0]], encoded[too_long[0]])
    prompted = [ids for ids in encoded if ids.begin and len(ids) > lm.max_length]
    of_context = sum(ids.begin + (max_tokens or 0) > lm.max_length for ids in prompted)
    if of_context:
        notice(f"{of_context} of {len(texts)} texts are cut by the model's context of {lm.max_length} tokens.")
    return [cut(lm, ids, limit) for ids, limit in zip(encoded, limits, strict=True)]


def encode_readable(
    lm: LM, texts: Sequence[LabelledText], max_tokens: int | None = None, *, may_be_none: bool = False
) -> tuple[list[LabelledText], list[EncodedText]]:
    """The texts that have a token to predict, each once, with their ids as ``encode_labelled`` gives them.

    How many others there are is told; a text of the same group as one of them is left out with it.

    Args:
        lm: the model.
        texts: the labelled texts.
        max_tokens: as in ``encode_labelled``.
        may_be_none: whether it may be that no text has a token to predict.

    Raises:
        DataError: as ``encode_labelled``, or no text has a token to predict.
    """
    unique = list({labelled.digest: labelled for labelled in texts}.values())
    pairs = list(zip(unique, encode_labelled(lm, unique, max_tokens), strict=True))
    full = sum(ids.begin > 0 and len(ids) == lm.max_length and not count_predicted(ids) for _, ids in pairs)
    lost = {text.group for text, ids in pairs if not count_predicted(ids)} - {""}
    pairs = [(text, ids) for text, ids in pairs if count_predicted(ids) and text.group not in lost]
    reason = f"the prompts of {full} fill the model's context of {lm.max_length} tokens" if full else ""
    if unique and not pairs and not may_be_none:
        reason = reason or f"the tokenizer of {lm.name} finds none in them"
        raise DataError(f"none of the {len(unique)} texts has a token to predict: {reason}.")
    if left_out := len(unique) - len(pairs):
        reason = reason or "the tokenizer finds no token to predict in them"
        notice(f"{left_out} of {len(unique)} texts are left out: {reason}.")
    return [text for text, _ in pairs], [ids for _, ids in pairs]


def ids_digest(ids: Iterable[Sequence[int]]) -> str:
    """SHA-256 of the ids of texts in their order, taken text by text."""
    digest = hashlib.sha256()
    for text in ids:
        digest.update(array("q", [len(text), *distinct_ids(text)]).tobytes())
    return digest.hexdigest()


def distinct_ids(ids: Sequence[int]) -> list[int]:
    """The ids of a text, and of a text after a prompt also where it begins: the same only for what is read alike."""
    return [*ids, *([-begin_of(ids)] if begin_of(ids) else [])]


def encode_texts(lm: LM, texts: Sequence[LabelledText], *, end: bool = True) -> list[EncodedText]:
    """The ids of texts as ``encode_labelled`` gives them, however long they are.

    Args:
        lm: the model.
        texts: the labelled texts.
        end: whether to put the end after each text.

    Raises:
        DataError: a text that holds half of a surrogate pair, or a token that the model cannot read.
    """
    alone = [i for i, text in enumerate(texts) if text.before is None]
    ids = encode(lm, [texts[i].text for i in alone], start=False, end=end)
    found = {i: EncodedText.of(each, is_ended=is_ended(lm, each)) for i, each in zip(alone, ids, strict=True)}
    prompted = [(i, text.before, text.text) for i, text in enumerate(texts) if text.before is not None]
    after = encode_after(lm, [prompt for _, prompt, _ in prompted], [text for *_, text in prompted])
    for (i, *_), each in zip(prompted, after, strict=True):
        found[i] = each if end else cut(lm, each, len(each) - each.is_ended)
    return [found[i] for i in range(len(texts))]


def cut(lm: LM, encoded: EncodedText, limit: int) -> EncodedText:
    """A text of at most so many tokens, with its prompt. One without a prompt may have an end of text within it."""
    if limit >= len(encoded):
        return encoded
    ids = encoded[:limit]
    return EncodedText.of(ids, encoded.begin, is_ended=not encoded.begin and is_ended(lm, ids))


def _too_long(lm: LM, count: int, first: int, text: LabelledText, encoded: EncodedText) -> DataError:
    context = f"the model's context of {lm.max_length} tokens"
    what = f"{count} texts are longer than {context}, the first of them text {first + 1}"
    if not encoded.begin:
        return DataError(f"{what} ({len(encoded)} tokens); cut them with --max-tokens {lm.max_length}.")
    own = len(encoded) - encoded.begin
    return DataError(
        f"{what}, {shortened(text.text)}: its prompt has {encoded.begin} tokens and it has {own}. Cut the texts with "
        "--max-tokens, which cuts no prompt, or leave those with long prompts out."
    )
