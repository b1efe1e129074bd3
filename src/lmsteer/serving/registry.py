"""Registry of the steers that requests may name; a folder is read again when it has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.serving.starts.saved import NAME, Saved
from lmsteer.steer.card import CARD_FILE, Card
from lmsteer.steer.files import load_steer
from lmsteer.steer.hub import HubId, located, origin_of, parse_hub_id
from lmsteer.steer.lookup import steers_in
from lmsteer.steer.notation import parse_strengths
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths

# Seconds to wait for a folder that is missing while a new version takes its place.
_RETRY_AFTER = 0.1
Notations = Mapping[str, float | str] | str
"""What a request names: a number or a notation for each steer, or all notations with commas between them."""


class SteerRegistry:
    """The steers of one model: those in some folders, and single ones of the Hub, named by their id ``org/name``.

    A steer that is saved in one of the folders can be used at once. Those of the Hub are fetched now, and stay as they
    are: what a request names is never fetched.

    Its methods may be called from any thread. They read files, so never call them on an event loop.

    Args:
        sources: folders of steers, searched in this order, and Hub ids of single steers. A folder goes before an id.
        check: raises ``LMSteerError`` for the card of a steer that must not be used (that of another model).

    Raises:
        SteerError: a source is neither a folder nor an id, or a steer of the Hub cannot be fetched or must not be used.
    """

    def __init__(self, sources: Sequence[str | Path], check: Callable[[Card], None]) -> None:
        ids = {source: hub_id for source in sources if (hub_id := id_of_source(source))}
        self._fetched = {hub_id.repository: located(str(source)) for source, hub_id in ids.items()}
        self._folders, self._check = [Path(source) for source in sources if source not in ids], check
        self._saved, self._last = Saved(self._read), dict[str, Steer]()
        for name in self._fetched:
            self.find(name)

    @property
    def sources(self) -> list[str]:
        """The folders, then the ids of the Hub with their commits."""
        return [*map(str, self._folders), *map(origin_of, self._fetched.values())]

    def names(self) -> list[str]:
        """The names of all steers that can be used, in alphabetical order."""
        return [name for name in self._all_names() if self._is_usable(name)]

    def refusals(self) -> list[str]:
        """Why some steers cannot be used, a sentence for each; of another model's nothing: a folder may have both."""
        reasons = list[str]()
        for name in filter(NAME.fullmatch, self._all_names()):
            try:
                self.find(name)
            except WrongBaseError:
                continue
            except SteerError as error:
                reasons.append(str(error))
        return reasons

    def find(self, name: str) -> Steer:
        """A steer by name, as it is saved now.

        Raises:
            SteerError: there is no such steer, or it is damaged or belongs to another model.
        """
        try:
            return self._load(name)
        except SteerError:
            if name not in self._last:
                raise
            time.sleep(_RETRY_AFTER)  # a new version may be taking its place right now
            return self._load(name)

    def find_or_recall(self, name: str) -> Steer:
        """A steer by name; if it has been deleted, its last version.

        Raises:
            SteerError: it was never found.
        """
        try:
            return self.find(name)
        except SteerError:
            if name not in self._last:
                raise
            return self._last[name]

    def steering(
        self, strengths: Notations, holds: Notations = "", *, recall: bool = False
    ) -> tuple[dict[str, Steer], Strengths]:
        """Steers and strengths by name.

        Args:
            strengths: a strength for each steer: ``{"sentiment": 2.5}``, or ``"sentiment=2.5,toxicity=50%@10.."``.
            holds: the level of each steer whose reading is held, written in the same way.
            recall: use the last version of steers that have been deleted.

        Raises:
            SteerError: the strengths cannot be parsed, or a steer is not found.
        """
        find = self.find_or_recall if recall else self.find
        steers: dict[str, Steer] = {}

        def card_of(name: str) -> Card:
            steers[name] = find(name)
            return steers[name].card

        _, (parsed,) = parse_strengths(_listed(strengths), card_of, _listed(holds))
        return steers, parsed

    def _load(self, name: str) -> Steer:
        if name not in self._fetched and not NAME.fullmatch(name):
            raise SteerError(
                f"unknown steer {name!r}: a server finds steers whose names have letters from a to z, digits, '.', '_' "
                "and '-' alone, beginning with a letter or a digit; those of the Hub are named when it starts."
            )
        folders = [self._fetched[name]] if name in self._fetched else [folder / name for folder in self._folders]
        card_files = [folder / CARD_FILE for folder in folders]
        card_file = next((file for file in card_files if file.exists()), None)
        if card_file is None:
            raise SteerError(f"unknown steer {name!r}; known steers: {', '.join(self.names()) or 'none'}.")
        try:
            self._last[name] = self._saved.get(card_file)
        except DataError as error:
            raise SteerError(f"steer {name!r} cannot be read: {error}") from error
        return self._last[name]

    def _read(self, card_file: Path) -> Steer:
        steer = load_steer(card_file.parent)
        self._check(steer.card)
        return steer

    def _all_names(self) -> list[str]:
        return sorted({folder.name for parent in self._folders for folder in steers_in(parent)} | self._fetched.keys())

    def _is_usable(self, name: str) -> bool:
        try:
            self.find(name)
        except SteerError:
            return False
        return True


def _listed(notations: Notations) -> list[str]:
    """Each notation as it is written on the command line."""
    if isinstance(notations, str):
        return [part.strip() for part in notations.split(",")] if notations.strip() else []
    listed = [f"{name}={strength}" for name, strength in notations.items()]
    if any("," in notation for notation in listed):
        raise SteerError("a request takes exactly one strength for each steer.")
    return listed


def id_of_source(source: str | Path) -> HubId | None:
    """The Hub id that a source of steers is; None for a folder, which goes before an id of the same name.

    Raises:
        SteerError: it is neither.
    """
    if Path(source).is_dir() or isinstance(source, Path):
        return None
    if (hub_id := parse_hub_id(source)) is None:
        raise SteerError(f"{source} holds no steers: it is neither a folder nor an id of the Hub (ORG/NAME).")
    return hub_id
