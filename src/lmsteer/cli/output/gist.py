"""How gist adapters, gists and their quality are printed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.config import GistCondition
from lmsteer.gist.evaluate import GistMetrics
from lmsteer.gist.gist import Gist


def print_gist_fit(out: Console, adapter: GistAdapter, folder: Path) -> None:
    """Where the adapter is, what held-out instructions show, and what to try next."""
    card = adapter.card
    out.print(
        f"Adapter of {card.tokens} gist tokens saved to {escape(str(folder))}, fitted on {card.data['examples']:,} "
        f"instructions ({card.data['left_out']:,} were longer than the context).",
        highlight=False,
    )
    if card.held_out:
        measured = [each.value for each in GistCondition if each.value in card.held_out]  # a control has its own alone
        losses = ", ".join(f"{name} {card.held_out[name]:.3f}" for name in measured)
        out.print(f"Loss of the held-out outputs, in nats per token, by condition: {losses}.", highlight=False)
    line = f"lmsteer gist compress 'Answer in one word.' --adapter {folder} --out brief.gist"
    out.print(f"Try: {escape(line)}", highlight=False)


def print_quality(out: Console, quality: GistMetrics, condition: GistCondition) -> None:
    """ROUGE-L, exact matches, loss, and the size of a gist."""
    out.print(
        f"{quality.examples} outputs, condition {condition.value}: ROUGE-L {quality.rouge_l:.3f}, exact "
        f"{quality.exact:.1%}, loss {quality.loss:.3f} nats per token; a prompt has {quality.prompt_tokens:.0f} tokens "
        f"on average, its cache takes {quality.cache_bytes / 1024:.0f} KiB.",
        highlight=False,
    )


def print_gist(out: Console, gist: Gist, file: Path) -> None:
    """How small a gist is, and where it is."""
    out.print(
        f"{gist.provenance.prompt_tokens} tokens compressed into {gist.tokens}, {gist.bytes / 1024:.0f} KiB of keys "
        f"and values, saved to {file}.",
        markup=False,
        highlight=False,
    )
