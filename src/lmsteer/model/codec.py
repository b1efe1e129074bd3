"""The codec: between texts and the token ids that a model can read.

A tokenizer and its model need not agree. A token that was added to the tokenizer alone has no input embedding, and a
head that is padded to a round size draws ids that the tokenizer does not know. Both end here: ``encode`` refuses the
former by name, and ``decode`` leaves out the latter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from lmsteer.errors import DataError, ModelError
from lmsteer.util.escapes import has_half_character

# The characters that a token covers: its first, and one past its last.
Bounds = tuple[int, int]

# Characters of a text that a message shows.
_SHOWN = 40


@dataclass(frozen=True)
class Codec:
    """A tokenizer, and how many token ids its model can read.

    Attributes:
        tokenizer: the tokenizer.
        rows: how many token ids the model both reads and predicts: the rows of its input embedding, or of its head if
            that has fewer.
        model: the model's name, for messages.
        embeddings: which embeddings there are so many of, for messages.
    """

    tokenizer: PreTrainedTokenizerBase
    rows: int
    model: str
    embeddings: str = "input embeddings"

    def encode(self, texts: Sequence[str], *, special: bool = True, literal: bool = False) -> list[list[int]]:
        """The token ids of each text.

        Args:
            texts: the texts.
            special: whether to add the special tokens that the tokenizer adds.
            literal: whether a special token that is written out in a text is plain text, as far as the tokenizer can
                tell the difference.

        Raises:
            DataError: a text has a token that the model cannot read, or cannot be encoded (see ``tokenize``).
        """
        encoded = self.tokenize(texts, special=special, literal=literal)
        for text, ids in zip(texts, encoded, strict=True):
            self.check(ids, f"the text {shortened(text)}")
        return encoded

    def tokenize(self, texts: Sequence[str], *, special: bool = True, literal: bool = False) -> list[list[int]]:
        """The token ids of each text, whether the model can read them or not; the arguments are those of ``encode``.

        Raises:
            DataError: a text cannot be encoded: it has half of a surrogate pair, as broken JSON does.
        """
        if not texts:
            return []
        tokenizer = self._literal_tokenizer if literal else self.tokenizer
        split = {"split_special_tokens": True} if literal else {}
        try:
            encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False, **split)["input_ids"]
        except (TypeError, UnicodeError):
            for number, text in enumerate(texts, 1):
                if has_half_character(text):
                    raise DataError(f"text {number} has half of a character in it (a lone surrogate).") from None
            raise
        return [list(ids) for ids in encoded]

    def encode_with_offsets(
        self, text: str, *, special: bool = True, literal: bool = False
    ) -> tuple[list[int], list[Bounds]]:
        """The token ids of a text, and the characters that each covers; the arguments are those of ``encode``.

        Raises:
            DataError: as ``encode``.
            ModelError: the tokenizer cannot tell which characters its tokens cover.
        """
        (ids,) = self.encode([text], special=special, literal=literal)
        if self.tokenizer.is_fast:
            tokenizer = self._literal_tokenizer if literal else self.tokenizer
            split = {"split_special_tokens": True} if literal else {}
            encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False, **split)
            return ids, [(start, end) for start, end in encoded["offset_mapping"]]
        pieces = [str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in ids]
        if "".join(pieces) != text:
            raise ModelError(
                f"the tokenizer of {self.model} ({type(self.tokenizer).__name__}) cannot tell which characters its "
                "tokens cover."
            )
        ends = list(accumulate(map(len, pieces)))
        return ids, list(zip([0, *ends], ends, strict=False))

    def check(self, ids: Sequence[int], where: str) -> None:
        """Refuse token ids that the model has no input embedding for.

        Args:
            ids: the ids.
            where: what they stand for, as the subject of a sentence.

        Raises:
            DataError: there is such an id.
        """
        if not ids or (min(ids) >= 0 and max(ids) < self.rows):
            return
        wrong = next(token for token in ids if not 0 <= token < self.rows)
        if wrong not in self._tokens:
            raise DataError(
                f"{where} has the token id {wrong}, but the ids of {self.model} are 0 to {self.rows - 1}: it has "
                f"{self.rows} {self.embeddings}."
            )
        raise DataError(
            f"{where} has the token {self._tokens[wrong]!r} (id {wrong}), but {self.model} has only {self.rows} "
            f"{self.embeddings}: its tokenizer has tokens that the model was never resized for. Leave the token out, "
            "or save the model again after model.resize_token_embeddings(len(tokenizer))."
        )

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of token ids; those that the tokenizer does not know have none.

        Args:
            ids: the ids.
            skip_special: whether to leave out special tokens.
        """
        known = [token for token in ids if token in self._tokens]
        return str(self.tokenizer.decode(known, skip_special_tokens=skip_special))

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """The special tokens by id, as they are written."""
        named = dict(zip(self.tokenizer.all_special_ids, map(str, self.tokenizer.all_special_tokens), strict=True))
        added = self.tokenizer.added_tokens_decoder.items()
        return named | {token_id: token.content for token_id, token in added if token.special}

    @cached_property
    def _tokens(self) -> dict[int, str]:
        """The tokens by id."""
        return {token_id: token for token, token_id in self.tokenizer.get_vocab().items()}

    @cached_property
    def _literal_tokenizer(self) -> PreTrainedTokenizerBase:
        """A copy: a fast tokenizer keeps the choice as a state, which other threads would see."""
        return copy.deepcopy(self.tokenizer)


def shortened(text: str) -> str:
    """The beginning of a text in quotes, for a message."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
