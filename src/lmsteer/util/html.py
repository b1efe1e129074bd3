"""Pages: self-contained HTML to show to somebody, from the templates of ``assets/report``."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader


def render_template(template: str, **values: Any) -> str:
    """A page of a template, with its values; what they hold is shown as it is, never taken for HTML."""
    environment = Environment(loader=PackageLoader("lmsteer", "assets/report"), autoescape=True)
    return environment.get_template(template).render(**values)
