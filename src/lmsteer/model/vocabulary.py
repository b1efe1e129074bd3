"""The vocabulary: the text of each token inside a longer text, whatever the tokenizer."""

from __future__ import annotations

from lmsteer.model.lm import LM

# The replacement character, which decoders write for bytes that are not a whole character.
_BROKEN = "\ufffd"


def token_texts(lm: LM) -> list[str]:
    """The text that each token (V,) adds to a text, with the space before a word.

    It is empty for special tokens, for tokens that are not a whole character, and for rows of the head that the
    tokenizer does not know. Each token is decoded after another one, which makes all tokenizers alike: byte-level ones
    write letters beyond ASCII as other signs, and sentencepiece's drop the space before the first word.
    """
    tokenizer, size = lm.tokenizer, lm.head.weight.shape[0]
    before = tokenizer.encode("a", add_special_tokens=False)[-1:]
    start = len(str(tokenizer.decode(before)))
    known = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    pairs = [[*before, token if token in known else before[0]] for token in range(size)]
    decoded = tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)
    return [
        "" if token not in known or _BROKEN in text[start:] else text[start:]
        for token, text in enumerate(map(str, decoded))
    ]
