"""Contrast: the two ends of a style dimension in words, in place of labelled texts. It can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from lmsteer.data.chats import Chat
from lmsteer.errors import DataError


@dataclass(frozen=True)
class Contrast:
    """What a model is asked for at the two ends of a style dimension.

    The model is asked for a short text about some subject, with an instruction for each end. Without an instruction it
    is asked for the text alone.

    Attributes:
        positive: the instruction of the positive end.
        negative: the instruction of the negative end; empty for none.
        role: whose turn the instructions are: ``user`` (after the request) or ``system``.

    Raises:
        DataError: the positive end is empty, or both ends are the same.
    """

    positive: str
    negative: str = ""
    role: str = "user"

    def __post_init__(self) -> None:
        if not self.positive.strip():
            raise DataError("the description of the positive end is empty: say in a few words what the texts are like.")
        if self.positive.split() == self.negative.split():
            raise DataError(f"both ends have the same description ({self.positive[:60]!r}): there is nothing to steer.")

    @classmethod
    def of_descriptions(cls, positive: str, negative: str | None = None) -> Self:
        """The contrast of two descriptions of a style, or of one and its absence.

        Args:
            positive: such as ``warm, delighted, full of praise`` or ``talks like a pirate``.
            negative: such as ``cold, bitter, full of complaint``; None for a text of no particular style.

        Raises:
            DataError: a description is empty, or both are the same.
        """
        if negative is not None and not negative.strip():
            raise DataError("the description of the negative end is empty: say in a few words what the texts are like.")
        return cls(positive.strip(), (negative or "").strip())

    @classmethod
    def of_prompt(cls, prompt: str) -> Self:
        """The contrast of a system prompt and none.

        Raises:
            DataError: the prompt is empty.
        """
        if not prompt.strip():
            raise DataError("the system prompt is empty: there is nothing to steer.")
        return cls(prompt.strip(), role="system")

    @property
    def is_one_sided(self) -> bool:
        """Whether the negative end is the request without an instruction."""
        return not self.negative

    def chat(self, instruction: str, subject: str) -> Chat:
        """The conversation that asks for a text about a subject, with an instruction; an empty one for none."""
        request = f"Write a short text about {subject}."
        if self.role == "system":
            return Chat.of_user(request, instruction or None)
        return Chat.of_user(f"{request}\nStyle: {instruction}." if instruction else request)

    def heading(self, instruction: str, subject: str) -> str:
        """The same for a model without a chat template: a heading, after which it writes the text."""
        return "\n\n".join([*([instruction] if instruction else []), f"A short text about {subject}:", ""])
