r"""Characters that cannot be written as they are, written as escapes.

``ESCAPES`` is the name of an error handler for ``str.encode`` and for streams: what an encoding cannot hold becomes
``\uXXXX``, in pairs beyond U+FFFF. JSON takes these escapes for the characters themselves.
"""

from __future__ import annotations

import codecs
import re

ESCAPES = "lmsteer.escapes"
# Control characters, by which a text could move the cursor of a terminal or change its colours; not line breaks, tabs.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}

# The control characters that JSON lets pass as they are.
_CONTROLS_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with its control characters written as escapes."""
    return text.translate(_CONTROLS)


def visible_json(json: str) -> str:
    """JSON with all control characters of its strings written as JSON's escapes."""
    return json.translate(_CONTROLS_IN_JSON)


def printable(text: str) -> str:
    """The text with halves of characters written as escapes, so that it can be encoded."""
    return text.encode(errors=ESCAPES).decode()


def has_half_character(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, as broken JSON does; no encoding can hold it."""
    return _HALF_CHARACTER.search(text) is not None


def one_line(text: str) -> str:
    """The text on one line, with its control characters written as escapes."""
    return visible(" ".join(line for line in map(str.strip, text.splitlines()) if line))


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[place : place + 2].hex() for place in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


codecs.register_error(ESCAPES, _escape)
