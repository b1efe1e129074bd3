"""The lists of what may stand before a prompt: gists and baselines."""

from __future__ import annotations

from fastapi import APIRouter

from lmsteer.serving.http.schema.responses import BaselineInfo, BaselineList, GistInfo, GistList
from lmsteer.serving.starts.baselines import ServedBaseline
from lmsteer.serving.starts.gists import ServedGist
from lmsteer.serving.starts.named import NamedStarts
from lmsteer.serving.starts.saved import usable


def add_starts(router: APIRouter, starts: NamedStarts) -> None:
    """Add the paths to a router."""

    # Plain functions run in a thread: they read files.
    @router.get("/gists")
    def gists() -> GistList:
        """List the gists that requests may name, as they are saved now."""
        found, _ = usable(starts.gists.names(), starts.gists.find)
        return GistList(data=[_gist(name, each) for name, each in found.items()])

    @router.get("/baselines")
    def baselines() -> BaselineList:
        """List the baselines that requests may name, and say of the others why they are not served."""
        found, _ = usable(starts.baselines.names(), starts.baselines.find)
        return BaselineList(data=[_baseline(name, each) for name, each in found.items()])


def _gist(name: str, found: ServedGist) -> GistInfo:
    origin = found.gist.provenance
    return GistInfo(
        name=name,
        tokens=found.gist.tokens,
        bytes=found.gist.bytes,
        prompt_tokens=origin.prompt_tokens,
        adapter=found.adapter,
        base=origin.base,
    )


def _baseline(name: str, found: ServedBaseline) -> BaselineInfo:
    return BaselineInfo(
        name=name, method=found.method, tokens=found.tokens, bytes=found.bytes, refusal=found.refusal or None
    )
