"""What the docs site adds to the pages while it is built: diagrams as pictures, and the reference of the commands.

Mermaid diagrams become SVG here, so that the site needs no script from elsewhere. The commands are described from the
program itself, so that their flags are always those of ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, ParameterInfo

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


def options() -> Iterator[tuple[str, list[str]]]:
    """The name of each command with the names of its options."""
    from lmsteer.cli import app

    for path, function in _functions(app):
        hints = get_type_hints(function, include_extras=True)
        names = [name for each in signature(function).parameters.values() for name in _names(each, hints[each.name])]
        yield " ".join(path), [name for name in names if name.startswith("--")]


def _diagram(source: str, name: str) -> str:
    import mermaidx

    svg = mermaidx.render(source).svg()
    svg = svg.replace("my-svg", name)  # the styles of two diagrams on a page must not meet
    return f'<div class="diagram">{svg}</div>'


def _commands() -> Iterator[str]:
    """Each command with its arguments and options, in Markdown, from the signatures of the functions."""
    from lmsteer.cli import app

    for path, function in sorted(_functions(app)):
        summary, _, example = cleandoc(function.__doc__ or "").partition("Example: ")
        yield f"## {' '.join(path)}\n\n{summary.strip()}\n"
        if example:
            yield f"```sh\n{example.strip()}\n```\n"
        yield "| argument or option | value | default | |\n|---|---|---|---|"
        hints = get_type_hints(function, include_extras=True)
        for parameter in signature(function).parameters.values():
            yield _row(parameter, hints[parameter.name])
        yield ""


def _functions(app: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for command in app.registered_commands:
        yield (*path, command.name or command.callback.__name__.replace("_", "-")), command.callback
    for group in app.registered_groups:
        name = group.name or group.typer_instance.info.name
        yield from _functions(group.typer_instance, (*path, name))


def _row(parameter: Parameter, hint: Any) -> str:
    """A line of the table; options are named as typer names them."""
    kind, info = _parts(hint)
    names, flag = _names(parameter, hint), kind is bool
    required = parameter.default is Parameter.empty or parameter.default is ...
    default = "required" if required else "" if flag or parameter.default in (None, "") else f"`{parameter.default}`"
    cells = [", ".join(f"`{each}`" for each in names), "" if flag else _value(kind), default, info.help if info else ""]
    return f"| {' | '.join((cell or '').replace('|', chr(92) + '|') for cell in cells)} |"


def _parts(hint: Any) -> tuple[Any, ParameterInfo | None]:
    """The type of an argument or option, and its settings for typer."""
    kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return kind, next((each for each in metadata if isinstance(each, ParameterInfo)), None)


def _names(parameter: Parameter, hint: Any) -> list[str]:
    kind, info = _parts(hint)
    if isinstance(info, ArgumentInfo):
        return [parameter.name.upper()]
    # In an annotation, typer takes the first name for a default until it meets the function.
    given = () if info is None else (info.default, *(info.param_decls or ()))
    declared = [each for each in given if isinstance(each, str) and each.startswith("-")]
    name = parameter.name.replace("_", "-")
    names = declared or ([f"--{name}", f"--no-{name}"] if kind is bool else [f"--{name}"])
    return [part for each in names for part in each.split("/")]


def _value(kind: Any) -> str:
    """The type of a value, in a word."""
    kinds = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if get_origin(kind) is list or any(get_origin(each) is list for each in kinds):
        (inner,) = get_args(kind if get_origin(kind) is list else kinds[0])
        return f"{_value(inner)}, repeatable"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return ", ".join(str(each.value) for each in kinds[0])
    return {str: "text", int: "number", float: "number", Path: "path"}.get(kinds[0], str(kinds[0]))
