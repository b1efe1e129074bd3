"""How continuations are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import plain, signed
from lmsteer.data.chats import Prompt
from lmsteer.util.escapes import visible


def print_stream(prompt: Prompt, chunks: Iterable[str]) -> None:
    """A prompt and its continuation, chunk by chunk as it is generated; an answer has lines of its own."""
    shown = prompt if isinstance(prompt, str) else f"{prompt.messages[-1].content}\n\n"
    for text in chain([shown], chunks):
        print(visible(text), end="", flush=True)
    print()


def print_continuations(out: Console, lines: Sequence[dict[str, Any]]) -> None:
    """Each prompt, and below it one line for each continuation, in the published format."""
    for line in lines:
        messages = line["prompt"].get("messages")
        shown = messages[-1]["content"] if messages else line["prompt"]["text"]
        out.print(f"\n[bold]  {plain(shown)}[/]", highlight=False, soft_wrap=True)
        for generation in line["generations"]:
            strengths = " ".join(f"{name}={signed(s)}" for name, s in generation["strengths"].items()) or "unsteered"
            text = generation["text"]
            joined = (
                "" if messages or text[:1].isspace() or not text else "…"
            )  # the text continues the prompt's last word
            out.print(f"  [cyan]{strengths}[/] {joined}{plain(text)}", highlight=False, soft_wrap=True)
            if readings := generation.get("readings"):
                out.print(_table(readings))


def _table(readings: Sequence[dict[str, Any]]) -> Table:
    """What is known of each token of a continuation, a line for each."""
    names = [*readings[0]["evidence"]]
    table = Table(box=SIMPLE)
    table.add_column("token", no_wrap=True)
    for head in ("log p", "unsteered", "KL", "scale", *chain(*((name, "total") for name in names))):
        table.add_column(head, justify="right", no_wrap=True)
    for each in readings:
        shown = repr(each["text"])[1:-1] or f"({each['id']})"  # the end, or a part of a character
        numbers = [f"{each['logprob']:.2f}", f"{each['unsteered_logprob']:.2f}", f"{each['kl']:.3f}"]
        evidence = [f"{each[kind][name]:+.2f}" for name in names for kind in ("evidence", "total_evidence")]
        table.add_row(escape(visible(shown)), *numbers, f"{each['scale']:.3g}", *evidence)
    return table
