"""Saved steers: where they lie, and their cards, read without importing torch.

A steer is found by its folder or by name: in ``steers/`` of the working directory, or among those that ship with the
package. A name like ``org/name`` that no folder has is an id of the Hub, and so is ``hf://org/name@revision``.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lmsteer.errors import SteerError
from lmsteer.steer.card import CARD_FILE, FACTORS_FILE, Card
from lmsteer.steer.hub import located, origin_of, parse_hub_id
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.records import Record, from_record

STEER = ArtifactKind("steer", CARD_FILE, FACTORS_FILE, 1, SteerError)
STEERS_FOLDER = Path("steers")
# Fitted steers that come with the package, for its default model.
SHIPPED_FOLDER = Path(str(files("lmsteer") / "assets" / "steers"))


@dataclass(frozen=True)
class SteerRecord:
    """What the card file of a steer holds.

    Attributes:
        form: ``multiply``, ``add`` or ``offset``.
        hidden_size: d.
        vocabulary: V.
        rank: rank of its matrix at the head; 1 for the forms without a matrix.
        card: its card.
        sites: the sites inside the model where it acts.
    """

    form: Literal["multiply", "add", "offset"]
    hidden_size: int
    vocabulary: int
    rank: int
    card: Card
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedSteer:
    """A steer on disk, without its factors.

    Attributes:
        folder: folder of the steer.
        form: ``multiply``, ``add`` or ``offset``.
        rank: rank of its matrix at the head; 1 for the forms without a matrix.
        card: its card.
        sites: the sites inside the model where it acts; none if it acts on the head alone.
    """

    folder: Path
    form: str
    rank: int
    card: Card
    sites: tuple[str, ...] = ()

    @property
    def is_shipped(self) -> bool:
        """Whether the steer comes with the package, so that its folder is not the user's to write to."""
        return _is_shipped(self.folder)

    def to_json(self) -> dict[str, Any]:
        """The steer as a JSON object."""
        return {
            "folder": str(self.folder),
            "form": self.form,
            "rank": self.rank,
            "sites": [*self.sites],
            "card": asdict(self.card),
        }


def read_saved(folder: str | Path) -> SavedSteer:
    """Read all of a steer but its factors.

    Raises:
        SteerError: there is no steer in the folder, or its card is damaged.
    """
    folder = Path(folder)
    with STEER.explained(folder):
        record = record_in(folder, STEER.read_record(folder))
        return SavedSteer(folder, record.form, record.rank, record.card, record.sites)


def record_in(folder: Path, content: Record) -> SteerRecord:
    """The record of the card file of a folder; the card of a steer that was fetched from the Hub says so.

    Raises:
        FormatError: a field is missing, or has another type than it should.
    """
    record = from_record(SteerRecord, content)
    origin = origin_of(folder)
    return replace(record, card=replace(record.card, origin=origin)) if origin else record


def find_card(name: str | Path) -> Card:
    """Read the card of a steer by folder or name, as ``find_folder`` finds it.

    Raises:
        SteerError: there is no such steer, or its card is damaged.
    """
    return read_saved(find_folder(name)).card


def find_folder(name: str | Path) -> Path:
    """Find the folder of a steer: a folder itself, a name in ``steers/`` or among those that ship, or a Hub id.

    A steer of the Hub is fetched into huggingface_hub's cache. A ``Path`` is never an id of the Hub.

    Raises:
        SteerError: there is no such steer; the message lists those that there are.
    """
    for folder in (Path(name), STEERS_FOLDER / name, SHIPPED_FOLDER / name):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if (folder / CARD_FILE).exists():
                return folder
    if (fetched := located(name)) != Path(name):
        return fetched
    own, shipped = (", ".join(folder.name for folder in steers_in(where)) for where in (STEERS_FOLDER, SHIPPED_FOLDER))
    raise SteerError(
        f"unknown steer {str(name)!r}: neither a folder with a {CARD_FILE}, nor a name in {STEERS_FOLDER}/ "
        f"(there: {own or 'none'}), nor one that ships ({shipped or 'none'}), nor an id of the Hub. "
        f"`lmsteer fit DATA --name {Path(name).name}` makes one."
    )


def steers_in(folder: Path) -> list[Path]:
    """The folders of steers within a folder, sorted by name."""
    return sorted(card.parent for card in folder.glob(f"*/{CARD_FILE}"))


def known_steers() -> list[SavedSteer]:
    """All steers that can be named: those in ``steers/``, then those that ship.

    Raises:
        SteerError: the card of one is damaged.
    """
    return [read_saved(folder) for where in (STEERS_FOLDER, SHIPPED_FOLDER) for folder in steers_in(where)]


def folder_for_update(folder: Path, out: Path | None = None) -> Path:
    """The folder that a new version of a steer may be saved to.

    Args:
        folder: folder of the steer.
        out: folder that the user chose; if None, the steer's own folder, or ``steers/NAME`` for a steer that ships or
            comes from the Hub.

    Raises:
        SteerError: the folder holds something else, or another steer of the same name.
    """
    origin = parse_hub_id(origin_of(folder))
    name = folder.name if _is_shipped(folder) else origin.repository.split("/")[1] if origin else None
    chosen = out or (folder if name is None else STEERS_FOLDER / name)
    if name is not None and out is None and chosen.exists():
        whence = "comes from the Hub" if origin else "ships"
        raise SteerError(f"{chosen} is another steer than the one that {whence}; choose a folder with --out.")
    check_target(chosen)
    return chosen


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a steer, since saving a steer there would remove it.

    Raises:
        SteerError: the folder holds other files, or is a file.
    """
    STEER.check_target(folder.absolute())


def target_folder(name: str, out: str | Path | None) -> Path:
    """The folder of a new steer: ``out``, or ``steers/NAME`` if that is None.

    Raises:
        SteerError: as ``check_target``.
    """
    folder = (STEERS_FOLDER / name if out is None else Path(out)).absolute()
    check_target(folder)
    return folder


def _is_shipped(folder: Path) -> bool:
    return folder.resolve().parent == SHIPPED_FOLDER.resolve()
