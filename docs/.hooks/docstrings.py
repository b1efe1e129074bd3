"""Docstrings announce a block of code by two colons, as reStructuredText does; in Markdown one is enough."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Blocks(griffe.Extension):
    """Turns ``text::`` at the end of a line into ``text:``, and a line of two colons into nothing."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Do so in the docstring of an object."""
        if obj.docstring:
            text = re.sub(r"^[ \t]*::[ \t]*$", "", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::[ \t]*$", ":", text, flags=re.MULTILINE)
