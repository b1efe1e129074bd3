"""The vocabulary: what each token stands for inside a text, whatever the tokenizer."""

from __future__ import annotations

from lmsteer.model.lm import LM

# What decoders write for bytes that are no whole character.
_BROKEN = "\ufffd"


def token_texts(lm: LM) -> list[str]:
    """What each token (V,) adds to a text, the blank before a word included.

    Empty for special tokens, for tokens that are no whole character, and for rows of the head that the tokenizer does
    not know. Byte-level tokenizers, which write letters beyond ASCII as other signs, and sentencepiece's, which drop
    the blank before a text's first word, come out alike: each token is decoded after another one.
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
