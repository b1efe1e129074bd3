"""Saved gist adapters: where they lie, and their cards, read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lmsteer.errors import DataError
from lmsteer.gist.config import GistCondition, GistConfig
from lmsteer.util.artifacts import ArtifactKind
from lmsteer.util.provenance import Provenance
from lmsteer.util.records import from_record
from lmsteer.util.run import Run

GIST_ADAPTER = ArtifactKind("gist adapter", "gist.json", "gist.safetensors", 1, DataError)
# Fitted adapters that come with the package, for its default model.
SHIPPED_FOLDER = Path(str(files("lmsteer") / "assets" / "gists"))


@dataclass(frozen=True, kw_only=True)
class GistCard(Provenance):
    """The card of a gist adapter.

    Attributes:
        tokens: number of gist tokens after a prompt, G.
    """

    tokens: int

    def __post_init__(self) -> None:
        known = [each.value for each in GistCondition]
        if self.fit.get("condition", known[0]) not in known:
            raise DataError(f"the condition of a gist adapter is one of {', '.join(known)}.")

    @property
    def title(self) -> str:
        """What the adapter is called in an error message."""
        return "this gist adapter"

    @property
    def condition(self) -> GistCondition:
        """The condition under which the adapter was fitted."""
        return GistCondition(self.fit.get("condition", GistCondition.GIST.value))


def find_folder(name: str | Path) -> Path:
    """Find the folder of an adapter: a folder itself, or the name of one that ships.

    Raises:
        DataError: there is none.
    """
    for folder in (Path(name), SHIPPED_FOLDER / name):
        if folder.exists():
            return folder
    shipped = ", or ".join(["", *sorted(entry.name for entry in SHIPPED_FOLDER.glob("*"))])
    raise DataError(f"no gist adapter in {name}; give a folder that gist fit made{shipped}.")


def find_card(name: str | Path) -> GistCard:
    """Read the card of an adapter by its folder, or by the name of one that ships.

    Raises:
        DataError: there is none, or its card is damaged.
    """
    folder = find_folder(name)
    with GIST_ADAPTER.explained(folder):
        return from_record(GistCard, GIST_ADAPTER.read_record(folder)["card"])


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a gist adapter, which saving one there would remove.

    Raises:
        DataError: it does, or it is a file.
    """
    GIST_ADAPTER.check_target(folder)


def gist_run(folder: Path, config: Mapping[str, Any]) -> Run:
    """The resumable run of a fit whose adapter is saved to ``folder``; it keeps its checkpoints in ``folder.partial``.

    Args:
        folder: the folder of the adapter.
        config: what must be the same for checkpoints to be used, or a part of it.
    """
    folder = folder.absolute()
    return Run(folder.with_name(f"{folder.name}.partial"), config, "a gist fit", "fit.json")


def check_fit_folders(folder: Path, config: GistConfig, resume: bool) -> None:
    """Refuse folders that a fit cannot write to, as far as that is known without a model.

    Args:
        folder: the folder of the adapter.
        config: how the adapter is fitted.
        resume: whether an interrupted fit is resumed; else its checkpoints will be removed.

    Raises:
        DataError: a folder holds something else, or checkpoints of another fit are to be resumed.
    """
    check_target(folder)
    run = gist_run(folder, config.to_json())
    if resume or run.kept() is None:
        run.check_folder()
