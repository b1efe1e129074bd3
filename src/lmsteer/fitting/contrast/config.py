"""Settings of a fit from descriptions. It can be read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmsteer.errors import DataError
from lmsteer.fitting.site_names import HEAD_ALONE, check_site_names

# One subject in so many is held out, to compare the steer with the instructions on.
HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class ContrastConfig:
    """Settings of a fit from descriptions.

    Attributes:
        texts: number of texts that the model writes for each end. Default 40.
        new_tokens: length of a text in tokens. Default 32.
        sites: where the steer acts: ``head``, the stream after layers (``layers.N``, patterns of it), linear layers
            that write to the stream, ``deep`` (the stream two thirds of the way, and the head), ``lora`` (the linear
            layers of three layers that write to the stream), or several. Default: the head alone.
        rank: rank of the steer, at each site; by default chosen from the spectrum.
        seed: seed of the texts. Default 0.
        resume: whether to keep the texts that an interrupted fit has written. Default False: they are written anew.

    Raises:
        DataError: a value is out of range.
    """

    texts: int = 40
    new_tokens: int = 32
    sites: Sequence[str] = HEAD_ALONE
    rank: int | None = None
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        check_site_names(self.sites)
        if self.texts < HELD_OUT_EVERY:
            raise DataError(f"the model must write {HELD_OUT_EVERY} texts or more for each end, not {self.texts}.")
        if self.new_tokens < 1:
            raise DataError(f"a text must have 1 token or more, not {self.new_tokens}.")
