"""Self-contained HTML pages, from the templates of ``assets/report``. jinja2 is imported when a page is rendered."""

from __future__ import annotations

from typing import Any


def render_template(template: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: the name of the template.
        values: its variables. Text in them is escaped, so that it is shown as it is.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("lmsteer", "assets/report"), autoescape=True)
    return environment.get_template(template).render(**values)
