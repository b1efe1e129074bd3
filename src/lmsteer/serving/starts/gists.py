"""The gists that requests may name: files of ``gist compress`` in some folders, each with the adapter that made it.

An adapter is one that ships, or one whose folder lies among the gists. It acts on the rows after its gists alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmsteer.errors import DataError, WrongBaseError
from lmsteer.gist.adapter import GistAdapter, load_adapter
from lmsteer.gist.gist import Gist
from lmsteer.gist.lookup import GIST_ADAPTER, SHIPPED_FOLDER
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.model.row_adapters import RowAdapter
from lmsteer.serving.starts.checks import check_folders
from lmsteer.serving.starts.saved import NAME, Saved, unknown, usable

_SUFFIX = ".gist"


@dataclass(frozen=True)
class ServedGist:
    """A gist that requests may name.

    Attributes:
        gist: the gist.
        adapter: the name of its adapter.
        start: where rows after it start, before their own tokens.
    """

    gist: Gist
    adapter: str
    start: Start


class GistRegistry:
    """The gists of some folders. A gist that is saved in one of them can be used at once; adapters are read now.

    Its methods may be called from any thread. They read files, so never call them on an event loop.

    Args:
        lm: the model.
        folders: the folders, searched in this order.

    Attributes:
        refusals: why some gists and adapters cannot be served, as far as that is known at the start.

    Raises:
        DataError: a folder is missing, or none of them holds a gist that can be served.
        ModelError: the model's rows cannot have an adapter each.
    """

    def __init__(self, lm: LM, folders: Sequence[Path]) -> None:
        check_folders(lm, folders, "--gists")
        self._lm, self._folders = lm, folders
        self.refusals, self._adapters = list[str](), dict[str, tuple[str, GistAdapter]]()
        if folders:
            self._read_adapters()
        self._for_rows: dict[str, RowAdapter] = {}
        self._saved = Saved(self._read)
        names = self.names()
        if folders and not names:
            raise DataError(f"no gists in {', '.join(map(str, folders))}: save them as NAME{_SUFFIX} (gist compress).")
        found, refused = usable(names, self.find)
        self.refusals += refused
        if folders and not found:
            raise DataError(f"no gists to serve in {', '.join(map(str, folders))}. {' '.join(self.refusals)}")

    def names(self) -> list[str]:
        """The names of all gists, in alphabetical order."""
        stems = (file.stem for folder in self._folders for file in folder.glob(f"*{_SUFFIX}"))
        return sorted({stem for stem in stems if NAME.fullmatch(stem)})

    def find(self, name: str) -> ServedGist:
        """A gist by name, as it is saved now.

        Raises:
            DataError: there is no such gist, or it is damaged.
            WrongBaseError: it belongs to another model, or to an adapter that was not there at the start.
        """
        files = [folder / f"{name}{_SUFFIX}" for folder in self._folders] if NAME.fullmatch(name) else []
        file = next((file for file in files if file.exists()), None)
        if file is None:
            raise unknown("gist", name, self.names())
        return self._saved.get(file)

    def _read(self, file: Path) -> ServedGist:
        gist = Gist.load(file)
        try:
            gist.provenance.check_base(self._lm)
            made_by = gist.provenance.adapter_fingerprint
            if made_by not in self._adapters:
                names = ", ".join(name for name, _ in self._adapters.values()) or "none"
                raise WrongBaseError(
                    f"it was made by another gist adapter than those here ({names}): put the adapter's folder beside "
                    "the gists, and start the server again."
                )
            name, adapter = self._adapters[made_by]
            gist.check(self._lm, adapter)
        except WrongBaseError as error:
            raise WrongBaseError(f"{file} cannot be served: {error}") from error
        if made_by not in self._for_rows:
            self._for_rows[made_by] = adapter.for_rows(self._lm)
        return ServedGist(gist, name, gist.start(self._for_rows[made_by]))

    def _read_adapters(self) -> None:
        """Read the adapters that ship, and those of the folders and in them."""
        inner = [entry for parent in (SHIPPED_FOLDER, *self._folders) for entry in sorted(parent.iterdir())]
        for folder in (*inner, *self._folders):
            if (folder / GIST_ADAPTER.card_file).exists():
                try:
                    adapter = load_adapter(folder)
                except DataError as error:
                    self.refusals.append(str(error))
                else:
                    self._adapters[adapter.fingerprint] = (folder.name, adapter)
