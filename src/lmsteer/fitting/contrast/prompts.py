"""The prompts of a contrast: what the model reads before a text, at either end and without an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmsteer.data.contrast import Contrast
from lmsteer.errors import DataError
from lmsteer.model.chat import encode_chat
from lmsteer.model.lm import LM

Ids = Sequence[int]


@dataclass(frozen=True)
class ContrastPrompts:
    """Token ids of the prompts for one subject.

    Attributes:
        positive: asks for a text of the positive end.
        negative: asks for a text of the negative end.
        neutral: asks for a text without an instruction. The steer acts on texts that are read after it.
    """

    positive: Ids
    negative: Ids
    neutral: Ids

    @property
    def longest(self) -> int:
        """The length of the longest of them, in tokens."""
        return max(map(len, (self.positive, self.negative, self.neutral)))


def contrast_prompts(lm: LM, contrast: Contrast, subjects: Sequence[str], new_tokens: int) -> list[ContrastPrompts]:
    """The prompts of a contrast for each subject: conversations if the model has a chat template, else headings.

    Args:
        lm: the model.
        contrast: the two ends in words.
        subjects: what the texts are about.
        new_tokens: the number of tokens that a text may have after each prompt.

    Raises:
        DataError: a prompt has a token that the model cannot read, the chat template refuses it, or it leaves no room
            for a text in the context.
    """
    prompts = [
        ContrastPrompts(
            positive=_ids(lm, contrast, contrast.positive, subject),
            negative=_ids(lm, contrast, contrast.negative, subject),
            neutral=_ids(lm, contrast, "", subject),
        )
        for subject in subjects
    ]
    longest = max(prompt.longest for prompt in prompts)
    if longest + new_tokens > lm.max_length:
        raise DataError(
            f"the description takes {longest} tokens; with a text of {new_tokens} it is longer than the context of "
            f"{lm.name}, {lm.max_length} tokens. Shorten it."
        )
    return prompts


def _ids(lm: LM, contrast: Contrast, instruction: str, subject: str) -> list[int]:
    if lm.tokenizer.chat_template:
        return encode_chat(lm.codec, contrast.chat(instruction, subject))
    return lm.encode([contrast.heading(instruction, subject)])[0]
