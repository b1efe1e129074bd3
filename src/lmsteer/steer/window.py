"""Windows: at which tokens of a continuation a strength acts, and with which share of it.

::

    3@10..        from token 10 on; tokens are counted from 0
    3@..10        the first 10 tokens
    3@10..40      tokens 10 to 39
    3@rise10..40  0 up to token 10, then more with each token, and all of it from token 40 on; rise..40 begins at once
    3@fall10..40  all of it up to token 10, then less with each token, and 0 from token 40 on
    3@answer      a chat's answer, without the thinking part before it
    3@thinking    only the thinking part

A window counts the tokens of the row's own continuation, wherever it was paused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lmsteer.errors import SteerError

Shape = Literal["flat", "rise", "fall"]
Part = Literal["all", "answer", "thinking"]
_RANGE = re.compile(r"(rise|fall|)([0-9]{0,9})\.\.([0-9]{0,9})")
_EXAMPLES = "write @10.., @..10, @10..40, @rise..40, @fall10..40, @answer or @thinking; tokens are counted from 0."


class Edges(NamedTuple):
    """The share of token t as a product: ``clamp((t - start) / rise, 0, 1) · clamp((end - t) / fall, 0, 1)``."""

    start: float
    rise: float
    end: float
    fall: float


@dataclass(frozen=True)
class Window:
    """At which tokens of a continuation a steer acts.

    Attributes:
        first: the first token, from 0.
        end: the token after the last one; None for no end.
        shape: ``flat``: the whole strength from ``first`` to before ``end``, else 0. ``rise``: from 0 at ``first`` to
            the whole strength at ``end``, which stays. ``fall``: the whole strength up to ``first``, then less, and 0
            from ``end`` on.
        part: ``answer`` or ``thinking``: that part of a chat's answer, of which ``thinking`` is what stands between the
            marks of the model's chat template, such as <think> and </think>; the mark that opens it belongs to the
            answer, the one that closes it to the thinking part.

    Raises:
        SteerError: it holds no token, has no end where its shape needs one, or is both a part and a range.
    """

    first: int = 0
    end: int | None = None
    shape: Shape = "flat"
    part: Part = "all"

    def __post_init__(self) -> None:
        if self.first < 0 or (self.end is not None and self.end <= self.first):
            raise SteerError(f"the window {self} holds no token: its first token must be 0 or more, and below its end.")
        if self.shape != "flat" and self.end is None:
            raise SteerError(f"the window {self} has no end: write like rise..40 at which token it is reached.")
        if self.part != "all" and (self.first, self.end, self.shape) != (0, None, "flat"):
            raise SteerError(f"a window is either a part or a range of tokens: {self.part} takes no range.")

    def __str__(self) -> str:
        if self.part != "all":
            return self.part
        shape = "" if self.shape == "flat" else self.shape
        return f"{shape}{self.first or ''}..{'' if self.end is None else self.end}"

    @classmethod
    def parse(cls, notation: str) -> Window:
        """Read a notation, such as ``10..``, ``rise..40`` or ``answer``.

        Raises:
            SteerError: it is none, or holds no token.
        """
        if notation in ("answer", "thinking"):
            return cls(part="answer" if notation == "answer" else "thinking")
        match = _RANGE.fullmatch(notation)
        if match is None or not (match[2] or match[3]):
            raise SteerError(f"unknown window {notation!r}: {_EXAMPLES}")
        shape: Shape = "rise" if match[1] == "rise" else "fall" if match[1] else "flat"
        return cls(int(match[2] or 0), int(match[3]) if match[3] else None, shape)

    @property
    def edges(self) -> Edges:
        """Its edges, for all tokens of its part."""
        end = math.inf if self.end is None else float(self.end)
        if self.shape == "rise":
            return Edges(self.first, end - self.first, math.inf, 1)
        if self.shape == "fall":
            return Edges(-1, 1, end, end - self.first)
        return Edges(self.first - 1, 1, end, 1)

    @property
    def earliest(self) -> int:
        """The first token, of those of its part, on which the steer acts."""
        return 0 if self.shape == "fall" else self.first + (self.shape == "rise")

    def share(self, token: int) -> float:
        """The share of the strength with which token ``token`` of its part is steered."""
        start, rise, end, fall = self.edges
        return min(1.0, max(0.0, (token - start) / rise)) * min(1.0, max(0.0, (end - token) / fall))


ALL = Window()
