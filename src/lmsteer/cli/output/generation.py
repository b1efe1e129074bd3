"""How continuations are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from rich.console import Console

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
