"""How fits and generations are printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lmsteer.cli.output.common import plain, signed
from lmsteer.fitting.fit import Fit
from lmsteer.gist.adapter import GistAdapter
from lmsteer.gist.masks import GistCondition

# Below this many texts the outer strengths are rough.
_FEW = 200


def fitted(out: Console, done: Fit, texts: int, again: str, on: str) -> None:
    """A fit: where the steer lies, what held-out texts say of it, and what to try with it."""
    reading = done.held_out
    out.print(
        f"Steer [bold]{escape(done.steer.card.name)}[/] of rank {done.steer.rank} saved to {escape(str(done.folder))}."
    )
    out.print(
        f"On {reading.texts} held-out texts: log-likelihood at their own label {reading.log_likelihood_gain:+.4f} "
        f"nats a token, sign accuracy {reading.sign_accuracy:.1%}."
    )
    if texts < _FEW:
        out.print(f"That was fitted on {texts} texts, which is few: expect loops beyond a strength of 2 or 3.")
    outer = 2 if texts < _FEW else 6
    line = f"lmsteer generate 'The weather today' --steer {again}=-{outer},0,{outer}{on}"
    out.print(f"Try: {escape(line)}", highlight=False)


def gist_fitted(out: Console, adapter: GistAdapter, folder: Path) -> None:
    """A fit of gist tokens: where the adapter lies, and what held-out instructions say of it."""
    card = adapter.card
    out.print(
        f"Adapter of {card.tokens} gist tokens saved to {escape(str(folder))}, fitted on {card.data['examples']:,} "
        f"instructions ({card.data['left_out']:,} were longer than the context).",
        highlight=False,
    )
    if card.held_out:
        losses = ", ".join(f"{each.value} {card.held_out[each.value]:.3f}" for each in GistCondition)
        out.print(f"Held-out loss of the outputs, nats a token, by what they see: {losses}.", highlight=False)
    line = f"lmsteer gist compress 'Answer in one word.' --adapter {folder} --out brief.gist"
    out.print(f"Try: {escape(line)}", highlight=False)


def streamed(prompt: str, pieces: Iterable[str]) -> None:
    """A continuation as it comes, after its prompt."""
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def continuations(out: Console, lines: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Prompts with their continuations below each other, one a line; for machines, a prompt's in a line of JSON."""
    if as_json:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
        return
    for line in lines:
        out.print(f"\n[bold]{'':2}{plain(line['prompt']['text'])}[/]", highlight=False, soft_wrap=True)
        for generation in line["generations"]:
            dial = " ".join(f"{name}={signed(s)}" for name, s in generation["strengths"].items()) or "unsteered"
            text = generation["text"]
            joined = "" if text[:1].isspace() or not text else "…"  # the prompt's last word goes on
            out.print(f"  [cyan]{dial}[/] {joined}{plain(text)}", highlight=False, soft_wrap=True)
