"""Steers on the Hub: their ids, and how they are fetched into huggingface_hub's cache. It does not import torch.

An id is ``org/name``, with or without ``hf://`` in front and ``@revision`` behind. Of a repository only the files of a
steer are fetched, after their sizes are known, and nothing is fetched of one that holds anything else than a steer. The
folder in the cache is named after the commit, so that a folder says where its steer comes from (``origin_of``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmsteer.errors import SteerError
from lmsteer.steer.card import CARD_FILE, FACTORS_FILE
from lmsteer.util.progress import notice

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo

PREFIX = "hf://"
README_FILE = "README.md"
# The most bytes that each file of a steer may have: factors of full rank of a hidden size of 11,000, and long texts.
_MAX_BYTES = {CARD_FILE: 4 << 20, FACTORS_FILE: 1 << 30, README_FILE: 4 << 20}
# What a repository may hold beside a steer: it is not fetched. Anything else says that it is no steer's alone.
_HARMLESS = re.compile(r"(.*/)?(\.gitattributes|\.gitignore|LICEN[CS]E|NOTICE|.*\.(md|txt|png|jpe?g|gif|svg|webp))")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9_./-]*))?")
_COMMIT = re.compile("[0-9a-f]{40}")
# What helps where the Hub does not know who asks.
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may do this"
# Seconds to wait for the Hub's answer.
_PATIENCE = 10.0


class HubId(NamedTuple):
    """The id of a steer on the Hub.

    Attributes:
        repository: its repository, ``org/name``.
        revision: a branch, a tag or a commit; None for the newest version.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")


def parse_hub_id(name: str) -> HubId | None:
    """The Hub id that a steer's name is; None if it is no such id.

    Raises:
        SteerError: it begins with ``hf://``, but no id follows.
    """
    written = name.removeprefix(PREFIX)
    match = _ID.fullmatch(written)
    if match and not any(part in written for part in ("..", "--", "//")) and not match[1].endswith(".git"):
        return HubId(match[1], match[2])
    if name.startswith(PREFIX):
        raise SteerError(
            f"{name!r:.200} is no id of the Hub: write {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION, with letters "
            "from a to z, digits, '.', '_' and '-'."
        )
    return None


def located(name: str | Path) -> Path:
    """The folder that the name of a steer stands for: itself, or where a steer of the Hub was fetched to.

    A name like ``org/name`` is an id of the Hub only where there is no such file or folder, and a ``Path`` never is.

    Raises:
        SteerError: the steer cannot be fetched.
    """
    hub_id = parse_hub_id(name) if isinstance(name, str) else None
    if hub_id is None or (not str(name).startswith(PREFIX) and Path(name).exists()):
        return Path(name)
    try:
        return fetch(hub_id)
    except HubUnreachableError as error:
        raise HubUnreachableError(f"no steer {str(name)!r} is here, and {error}") from error


def origin_of(folder: Path) -> str:
    """The Hub id, with its commit, that a folder was fetched from; empty if it is no folder of huggingface_hub's cache.

    A name in that cache is ``models--org--name/snapshots/COMMIT``, and no id holds two hyphens in a row.
    """
    *_, repository, snapshots, commit = ("", "", *folder.absolute().parts)
    is_cached = repository.startswith("models--") and snapshots == "snapshots" and _COMMIT.fullmatch(commit)
    return f"{PREFIX}{repository.removeprefix('models--').replace('--', '/')}@{commit}" if is_cached else ""


@cache
def fetch(hub_id: HubId) -> Path:
    """The folder of a steer of the Hub in huggingface_hub's cache; a process asks the Hub for each id once.

    Without a network, or where the id names a commit that was fetched before, it is the cached one.

    Raises:
        SteerError: there is no such repository or revision, it may not be read, cannot be reached, holds no steer or
            more than a steer, or a file of it is too large.
    """
    if hub_id.revision and _COMMIT.fullmatch(hub_id.revision) and (folder := _cached(hub_id)):
        return folder
    api = hub_api()
    try:
        with explained(hub_id):
            info = api.model_info(hub_id.repository, revision=hub_id.revision, files_metadata=True, timeout=_PATIENCE)
    except HubUnreachableError as error:
        if (folder := _cached(hub_id)) is None:
            raise
        notice(f"{error} Version {folder.name} is used, which was fetched before.")
        return folder
    wanted = _wanted(hub_id, info)
    with explained(hub_id):
        fetched = api.snapshot_download(hub_id.repository, revision=hub_id.revision, allow_patterns=wanted)
    if Path(fetched).name != info.sha:
        raise SteerError(f"{hub_id} changed while it was fetched: try again.")
    return Path(fetched)


def hub_api() -> HfApi:
    """The Hub's client, with its own settings of the address and of the token."""
    from huggingface_hub import HfApi

    return HfApi(library_name="lmsteer")


class HubUnreachableError(SteerError):
    """The Hub does not answer, or must not be asked."""


@contextmanager
def explained(hub_id: HubId, *, writing: bool = False) -> Iterator[None]:
    """Report what goes wrong with a repository of the Hub within a ``with`` block in words.

    Args:
        hub_id: the repository.
        writing: whether it is written to.

    Raises:
        SteerError: anything that the client raises; a ``HubUnreachableError`` if there was no answer.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise SteerError(f"{hub_id} is gated: ask for access on its page of the Hub, and {LOG_IN}.") from error
    except errors.DisabledRepoError as error:
        raise SteerError(f"{hub_id} is disabled on the Hub.") from error
    except errors.RevisionNotFoundError as error:
        raise SteerError(f"{hub_id.repository} has no revision {hub_id.revision!r} on the Hub.") from error
    except errors.HfHubHTTPError as error:
        raise _refusal(hub_id, error, writing) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # no connection, HF_HUB_OFFLINE
        raise HubUnreachableError(f"the Hub cannot be reached for {hub_id}: {_first_line(error)}.") from error


def _refusal(hub_id: HubId, error: HfHubHTTPError, writing: bool) -> SteerError:
    """What an answer of the Hub means that is an error, by its status."""
    from huggingface_hub.errors import RepositoryNotFoundError

    status = error.response.status_code
    if status in (408, 429) or status >= 500:
        return HubUnreachableError(f"the Hub cannot serve {hub_id} now (status {status}).")
    if writing and status in (401, 403, 404):
        return SteerError(f"the Hub does not let you write to {hub_id} (status {status}): {LOG_IN}.")
    if isinstance(error, RepositoryNotFoundError):
        return SteerError(
            f"unknown steer {str(hub_id)!r}: no folder of that name is here, and the Hub has no such repository, or a "
            f"private one. If it is private, {LOG_IN}."
        )
    if status in (401, 403):
        return SteerError(f"the Hub does not let you read {hub_id} (status {status}): {LOG_IN}.")
    return SteerError(f"the Hub refuses {hub_id} (status {status}): {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _cached(hub_id: HubId) -> Path | None:
    """The folder of a steer that was fetched before; None if it was not."""
    from huggingface_hub import try_to_load_from_cache

    files = [try_to_load_from_cache(hub_id.repository, name, revision=hub_id.revision) for name in _needed()]
    folders = {Path(file).parent for file in files if isinstance(file, str)}
    return folders.pop() if len(folders) == 1 and all(isinstance(file, str) for file in files) else None


def _needed() -> tuple[str, str]:
    return CARD_FILE, FACTORS_FILE


def _wanted(hub_id: HubId, info: ModelInfo) -> list[str]:
    """The files to fetch of a repository.

    Raises:
        SteerError: it holds no steer, or something else beside it, or a file is too large.
    """
    sizes = {file.rfilename: file.size for file in info.siblings or ()}
    if missing := [name for name in _needed() if name not in sizes]:
        verb = "are" if len(missing) > 1 else "is"
        raise SteerError(f"{hub_id} holds no steer: {' and '.join(missing)} of it {verb} missing.")
    check_beside(hub_id, sizes)
    wanted = {name: sizes[name] for name in _MAX_BYTES if name in sizes}
    check_sizes(str(hub_id), wanted)
    return list(wanted)


def check_beside(hub_id: HubId, names: Iterable[str]) -> None:
    """Refuse a repository that holds anything else than a steer, texts and pictures.

    Raises:
        SteerError: it does.
    """
    if others := [name for name in names if name not in _MAX_BYTES and not _HARMLESS.fullmatch(name)]:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise SteerError(
            f"{hub_id} holds {', '.join(others[:3])}{more}, which no steer has: a steer's repository holds "
            f"{CARD_FILE}, {FACTORS_FILE}, texts and pictures alone. Nothing was fetched or written."
        )


def check_sizes(what: str, sizes: Mapping[str, int | None]) -> None:
    """Refuse files of a steer that are too large to be fetched.

    Raises:
        SteerError: one has more bytes than it may have, or an unknown number.
    """
    for name, size in sizes.items():
        if size is None or size > _MAX_BYTES[name]:
            raise SteerError(
                f"{name} of {what} has {'too many' if size is None else f'{size:,}'} bytes; a steer's has at most "
                f"{_MAX_BYTES[name]:,}. Nothing was fetched or written."
            )
