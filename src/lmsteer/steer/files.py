"""Steers on disk: a folder of ``steer.safetensors`` (factors) and ``steer.json`` (shape and card).

Nothing is ever unpickled on loading. A published ``.pt`` checkpoint is imported through torch's restricted
loader, which builds tensors and plain containers and executes no code.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Form, Steer
from lmsteer.util.artifacts import ArtifactKind

FACTORS_FILE, CARD_FILE = "steer.safetensors", "steer.json"
_KIND = ArtifactKind("steer", CARD_FILE, FACTORS_FILE, 1, SteerError)
STEERS_FOLDER = Path("steers")
# Fitted steers that come with the package, of its default model.
SHIPPED_FOLDER = Path(str(files("lmsteer") / "assets" / "steers"))

# The published code multiplies W by this (its ``--epsilon``), beside factors that it draws from N(0, 1e-2²).
_PUBLISHED_SCALE = 1e-3
_PUBLISHED_NAMES = {"projector1": "A", "projector2": "B", "add_vec": "a", "offset_vec": "o"}


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else than a steer, which saving one there would remove.

    Raises:
        SteerError: it does, or it is no folder.
    """
    _KIND.check_target(folder)


def save_steer(steer: Steer, folder: str | Path) -> Path:
    """Write a steer; an older one in the same folder stands until the new one is whole.

    Raises:
        SteerError: the folder holds something else, or the disk does not take it.
    """
    folder = Path(folder)
    _KIND.save(folder, _to_json(steer), steer.factors)
    return folder


def load_steer(folder: str | Path) -> Steer:
    """Read a steer.

    Raises:
        SteerError: no steer there, or a damaged one.
    """
    with _KIND.reading(Path(folder)) as (fields, factors):
        card = Card.from_json(fields["card"])
        return Steer(fields["form"], factors, fields["hidden_size"], fields["vocabulary"], card)


def find_folder(name: str | Path) -> Path:
    """The folder of a steer: a folder itself, or one by name, of ``steers/`` here or of those that ship.

    Raises:
        SteerError: there is none, naming those that there are.
    """
    for folder in (Path(name), STEERS_FOLDER / name, SHIPPED_FOLDER / name):
        with contextlib.suppress(OSError, ValueError):  # of what is no name of a file
            if (folder / CARD_FILE).exists():
                return folder
    own, shipped = (", ".join(folder.name for folder in known_in(where)) for where in (STEERS_FOLDER, SHIPPED_FOLDER))
    raise SteerError(
        f"unknown steer {str(name)!r}: neither a folder with a {CARD_FILE}, nor a name in {STEERS_FOLDER}/ "
        f"(there: {own or 'none'}), nor one that ships ({shipped or 'none'}). "
        f"`lmsteer fit DATA --name {Path(name).name}` makes one."
    )


def known_in(where: Path) -> list[Path]:
    """The folders of steers in a folder, by name."""
    return sorted(card.parent for card in where.glob(f"*/{CARD_FILE}"))


def find_steer(name: str | Path) -> Steer:
    """Read a steer by folder or name, as ``find_folder`` finds it.

    Raises:
        SteerError: there is none, or a damaged one.
    """
    return load_steer(find_folder(name))


def import_published(checkpoint: str | Path, card: Card, hidden_size: int, vocabulary: int) -> list[Steer]:
    """Read a checkpoint of the published LM-Steer code: a pickled list of arguments, factors and step.

    The file holds ``num_steers`` steers; each becomes one. Its scale on W (``epsilon``) goes into the factors.

    Raises:
        SteerError: the file is not such a checkpoint, asks for code to be run, or is for another model shape.
    """
    arguments, factors = _read_published(Path(checkpoint))
    scale = float(getattr(arguments, "epsilon", None) or _PUBLISHED_SCALE)
    named = {
        _PUBLISHED_NAMES[key]: value.float()
        for key, value in factors.items()
        if key in _PUBLISHED_NAMES and isinstance(value, Tensor) and value.dim()
    }
    forms: dict[frozenset[str], Form] = {
        frozenset("AB"): "multiply", frozenset("a"): "add", frozenset("o"): "offset"
    }  # fmt: skip
    form = forms.get(frozenset(named))
    if form is None:
        raise SteerError(f"{checkpoint} holds {sorted(factors)}; expected {sorted(_PUBLISHED_NAMES)}.")
    count = next(iter(named.values())).shape[0]
    fit = {"method": "published", "arguments": _plain(vars(arguments))}
    return [
        Steer(
            form,
            {key: value[k].contiguous() for key, value in named.items()},
            hidden_size,
            vocabulary,
            dataclasses.replace(card, name=card.name if count == 1 else f"{card.name}-{k}", fit=fit),
        ).scaled(scale)
        for k in range(count)
    ]


def _read_published(checkpoint: Path) -> tuple[argparse.Namespace, Mapping[str, Tensor]]:
    try:
        # Of all classes beside tensors and containers only Namespace is let in, and it runs no code of its own.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise SteerError(f"no such file: {checkpoint}.") from error
    except Exception as error:  # a file that is no pickle fails in any way: as its bytes happen to read
        raise SteerError(
            f"{checkpoint} is not a published checkpoint that can be read without running code: {error}"
        ) from error
    match content:
        case [argparse.Namespace() as arguments, Mapping() as factors, *_]:
            return arguments, factors
    raise SteerError(f"{checkpoint} is not a published checkpoint (a list of arguments, factors and step).")


def _to_json(steer: Steer) -> dict[str, Any]:
    return {
        "form": steer.form,
        "hidden_size": steer.hidden_size,
        "vocabulary": steer.vocabulary,
        "rank": steer.rank,
        "card": dataclasses.asdict(steer.card),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (str, int, float, bool, list, type(None)))}
