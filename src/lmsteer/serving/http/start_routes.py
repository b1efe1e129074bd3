"""The lists of what may stand before a prompt: gists and baselines."""

from __future__ import annotations

from fastapi import APIRouter

from lmsteer.serving.http.schema.responses import BaselineInfo, BaselineList, GistInfo, GistList
from lmsteer.serving.starts.named import NamedStarts


def add_starts(router: APIRouter, starts: NamedStarts) -> None:
    """Add the paths to a router."""

    # Plain functions run in a thread: they read files.
    @router.get("/gists")
    def gists() -> GistList:
        """List the gists that requests may name, as they are saved now."""
        return GistList(data=[_gist(starts, name) for name in starts.gists.names()])

    @router.get("/baselines")
    def baselines() -> BaselineList:
        """List the baselines that requests may name, and say of the others why they are not served."""
        return BaselineList(data=[_baseline(starts, name) for name in starts.baselines.names()])


def _gist(starts: NamedStarts, name: str) -> GistInfo:
    found = starts.gists.find(name)
    origin = found.gist.provenance
    return GistInfo(
        name=name,
        tokens=found.gist.tokens,
        bytes=found.gist.bytes,
        prompt_tokens=origin.prompt_tokens,
        adapter=found.adapter,
        base=origin.base,
    )


def _baseline(starts: NamedStarts, name: str) -> BaselineInfo:
    found = starts.baselines.find(name)
    baseline = found.baseline
    return BaselineInfo(
        name=name, method=baseline.method, tokens=baseline.context, bytes=baseline.bytes, refusal=found.refusal or None
    )
