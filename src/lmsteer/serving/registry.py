"""The shelf: the steers that requests may ask for, by name, as they lie in folders right now."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.files import load_steer
from lmsteer.steer.lookup import CARD_FILE, steers_in
from lmsteer.steer.notation import parse_strengths
from lmsteer.steer.steer import Steer

# Names come from outside: none of them leaves its folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Seconds that a folder may be gone for while another takes its place.
_A_MOMENT = 0.1


class SteerRegistry:
    """Steers of one model in some folders, each looked up when it is asked for: one that is put there acts at once.

    Args:
        folders: to look in, in this order.
        check: refuses a steer of another model, by its card.
    """

    def __init__(self, folders: Sequence[Path], check: Callable[[Card], None]) -> None:
        self._folders, self._check = folders, check
        self._known: dict[str, tuple[int, Steer]] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        """Of all that there are for this model."""
        found = {folder.name for where in self._folders for folder in steers_in(where)}
        return [name for name in sorted(found) if self._is_ours(name)]

    def find(self, name: str) -> Steer:
        """A steer by name.

        Raises:
            SteerError: there is none of that name, or it is damaged or of another model.
        """
        try:
            return self._found(name)
        except SteerError:
            if name not in self._known:
                raise
            time.sleep(_A_MOMENT)  # another fit may be taking its place right now
            return self._found(name)

    def find_or_recall(self, name: str) -> Steer:
        """A steer as it lies there now, or if it does no more, as it was found last.

        Raises:
            SteerError: it was never found.
        """
        try:
            return self.find(name)
        except SteerError:
            if name not in self._known:
                raise
            return self._known[name][1]

    def dial(
        self, asked: Mapping[str, float | str] | str, *, recall: bool = False
    ) -> tuple[dict[str, Steer], dict[str, float]]:
        """Steers and strengths of a request: ``{"sentiment": 2.5}``, or ``"sentiment=2.5,toxicity=50%"``.

        With ``recall`` steers that are gone since are taken as they were found last.

        Raises:
            SteerError: what is asked for cannot be read, or is not there.
        """
        if isinstance(asked, str):
            notations = [part.strip() for part in asked.split(",")] if asked.strip() else []
        else:
            notations = [f"{name}={strength}" for name, strength in asked.items()]
        if any("," in notation for notation in notations):
            raise SteerError("a request has one strength a steer.")
        find = self.find_or_recall if recall else self.find
        steers: dict[str, Steer] = {}

        def card_of(name: str) -> Card:
            steers[name] = find(name)
            return steers[name].card

        _, (setting,) = parse_strengths(notations, card_of)
        return steers, setting

    def _found(self, name: str) -> Steer:
        card = next((card for card in self._cards(name) if card.exists()), None)
        if card is None:
            raise SteerError(f"unknown steer {name!r}; there are: {', '.join(self.names()) or 'none'}.")
        try:
            changed = card.stat().st_mtime_ns
        except OSError as error:
            raise SteerError(f"steer {name!r} cannot be read: {error}.") from error
        with self._lock:
            known = self._known.get(name)
            if known is None or known[0] != changed:
                steer = load_steer(card.parent)
                self._check(steer.card)
                known = self._known[name] = (changed, steer)
            return known[1]

    def _cards(self, name: str) -> list[Path]:
        """Where the card of a steer may lie."""
        return [where / name / CARD_FILE for where in self._folders] if _NAME.fullmatch(name) else []

    def _is_ours(self, name: str) -> bool:
        try:
            self.find(name)
        except SteerError:
            return False
        return True
