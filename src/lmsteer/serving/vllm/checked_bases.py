"""Which steers are known to belong to the head of this process: each is checked once."""

from __future__ import annotations

from lmsteer.model.head import HeadShard
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


class CheckedBases:
    """The steers that were checked."""

    def __init__(self) -> None:
        self._checked: dict[str, Steer] = {}

    def check(self, mix: Mix, head: HeadShard) -> None:
        """Refuse a mix with a steer of another base.

        Raises:
            WrongBaseError: a steer belongs to another base.
        """
        for name, steer in mix.steers.items():
            if self._checked.get(name) is not steer:
                head.check(steer)
                self._checked[name] = steer
