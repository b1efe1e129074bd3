"""Steers are shared on the Hub: the two files of a steer and a model card, in one commit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsteer.errors import SteerError
from lmsteer.export.model_card import model_card
from lmsteer.model.sources.pypi import PACKAGED
from lmsteer.steer.card import CARD_FILE, FACTORS_FILE, Card
from lmsteer.steer.hub import LOG_IN, README_FILE, HubId, check_beside, check_sizes, explained, hub_api, parse_hub_id
from lmsteer.steer.lookup import find_folder, read_saved
from lmsteer.util.escapes import one_line

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo


@dataclass(frozen=True)
class Pushed:
    """A steer that was pushed.

    Attributes:
        id: its Hub id, with the commit.
        url: the page of its commit.
    """

    id: str
    url: str


def push_steer(
    name: str | Path,
    repository: str,
    *,
    private: bool = False,
    message: str = "",
    license_id: str = "",
    base_model: str = "",
) -> Pushed:
    """Push a steer to the Hub, in one commit; the repository is made if there is none.

    The token is the one that huggingface_hub finds: of ``hf auth login``, or of ``HF_TOKEN``.

    Args:
        name: folder, name or Hub id of the steer.
        repository: the repository, ``org/name``.
        private: make a new repository private.
        message: the message of the commit.
        license_id: the licence of the steer, as the Hub names licences (``apache-2.0``); none is stated by default.
        base_model: the Hub id of the steer's base; by default the one that its card names.

    Raises:
        SteerError: there is no such steer, it is damaged or too large, its base has no Hub id, the repository holds
            something else or is public where a private one is asked for, or the Hub does not take it.
    """
    from huggingface_hub import CommitOperationAdd, get_token

    from lmsteer.steer.files import load_steer

    target = _target(repository)
    folder = find_folder(name)
    card = load_steer(folder).card
    readme = model_card(card, target.repository, base_model or base_of(card), license_id)
    files: dict[str, bytes | Path] = {
        CARD_FILE: _shared_card(folder),
        FACTORS_FILE: folder / FACTORS_FILE,
        README_FILE: readme.encode(),
    }
    sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in files.items()}
    check_sizes(str(folder), sizes)
    if get_token() is None:
        raise SteerError(f"the Hub does not know who you are: {LOG_IN}.")
    api = hub_api()
    with explained(target, writing=True):
        _check_repository(target, private)
        api.create_repo(target.repository, private=private or None, exist_ok=True)
        commit = api.create_commit(
            target.repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=one_line(message) or f"Steer {card.name}",
        )
    return Pushed(str(HubId(target.repository, commit.oid)), commit.commit_url)


def check_push(name: str | Path, repository: str, base_model: str = "") -> None:
    """Refuse what cannot be pushed, as far as that is known without the Hub.

    Raises:
        SteerError: there is no such steer, its base has no Hub id, or the repository cannot have that name.
    """
    _target(repository)
    card = read_saved(find_folder(name)).card
    if not base_model:
        base_of(card)
    elif (hub_id := parse_hub_id(base_model)) is None or str(hub_id) != f"hf://{base_model}":
        raise SteerError(f"{base_model!r} is no Hub id of a model: write ORG/NAME.")


def base_of(card: Card) -> str:
    """The Hub id of the base of a steer.

    Raises:
        SteerError: the card names none.
    """
    if card.base in PACKAGED:
        return PACKAGED[card.base].hub
    if (hub_id := parse_hub_id(card.base)) is None:
        raise SteerError(
            f"the card of {card.title} names its base {card.base!r}, which is no Hub id: say with --base-model which "
            "model of the Hub it is."
        )
    return hub_id.repository


def _target(repository: str) -> HubId:
    target = parse_hub_id(repository)
    if target is None or target.revision:
        raise SteerError(
            f"{repository!r:.200} is no name of a repository: write ORG/NAME, with letters from a to z, digits, '.', "
            "'_' and '-'."
        )
    return target


def _check_repository(target: HubId, private: bool) -> None:
    """Refuse a repository of something else, and a public one where a private one was asked for.

    Raises:
        SteerError: it is one of these.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info: ModelInfo = hub_api().model_info(target.repository, files_metadata=True)
    except RepositoryNotFoundError:
        return  # it will be made
    if private and not info.private:
        raise SteerError(f"{target} exists and is public: choose another name, or change its visibility on the Hub.")
    check_beside(target, [file.rfilename for file in info.siblings or ()])


def _shared_card(folder: Path) -> bytes:
    """The card file of a steer, in which the file of its texts has no folder: that is of this machine alone."""
    content = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    source: Any = content["card"].get("data", {}).get("source")
    if isinstance(source, dict) and isinstance(source.get("path"), str):
        path = Path(source["path"])
        source["path"] = path.name if path.is_absolute() or path.exists() else source["path"]
    return (json.dumps(content, indent=2) + "\n").encode()
