"""The page's files in ``assets/web``: style sheet, icon, script, templates."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader


def asset(name: str) -> str:
    """The text of a file."""
    return (files("lmsteer") / "assets" / "web" / name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """HTML of a template; special characters in the values are escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("lmsteer", "assets/web"), autoescape=True)
