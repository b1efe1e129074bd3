"""What the docs site adds to the pages while it is built: diagrams as pictures, and the reference of the commands.

Mermaid diagrams become SVG here, so that the site needs no script from elsewhere. The commands are described from the
program itself, so that their flags are always those of ``--help``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

DIAGRAM = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The Markdown of a page, with its diagrams drawn and its commands listed."""
    number = 0

    def drawn(found: re.Match[str]) -> str:
        nonlocal number
        number += 1
        return _diagram(found[1], f"diagram-{number}")

    markdown = DIAGRAM.sub(drawn, markdown)
    return markdown.replace(COMMANDS, "\n".join(_commands())) if COMMANDS in markdown else markdown


def _diagram(source: str, name: str) -> str:
    import mermaidx

    svg = mermaidx.render(source).svg
    svg = svg.replace("my-svg", name)  # the styles of two diagrams on a page must not meet
    return f'<div class="diagram">{svg}</div>'


def _commands() -> Iterator[str]:
    """Each command with its arguments and options, in Markdown."""
    import typer

    os.environ["TERM"] = "dumb"
    from lmsteer.cli import app

    root = typer.main.get_command(app)
    for path, command in _leaves(root, ("lmsteer",)):
        context = command.make_context(path[-1], [], resilient_parsing=True)
        yield f"## {' '.join(path[1:])}\n"
        summary, _, example = (command.help or "").partition("Example: ")
        yield summary.strip() + "\n"
        if example:
            yield f"```sh\n{example.strip()}\n```\n"
        yield "| argument or option | value | default | |\n|---|---|---|---|"
        for parameter in command.get_params(context):
            if not getattr(parameter, "hidden", False) and parameter.name != "help":
                yield _row(parameter, context)
        yield ""


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name in sorted(command.commands):
        yield from _leaves(command.commands[name], (*path, name))


def _row(parameter: Any, context: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.human_readable_name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    flag = getattr(parameter, "is_flag", False)
    kind = "" if flag else parameter.type.name.replace("|", "\\|")
    repeatable = " (repeatable)" if parameter.multiple or parameter.nargs == -1 else ""
    default = parameter.get_default(context, call=False)
    shown = "required" if parameter.required else "" if default in (None, (), []) or flag else f"`{default}`"
    text = (parameter.help or "").replace("|", "\\|").replace("\n", " ")
    return f"| {', '.join(f'`{name}`' for name in names)} | {kind}{repeatable} | {shown} | {text} |"
