r"""Characters that cannot be written as they are, written as escapes.

``ESCAPES`` is the name of an error handler for ``str.encode`` and for streams: what an encoding cannot hold becomes
``\uXXXX``, in pairs beyond U+FFFF. JSON takes these escapes for the characters themselves.
"""

from __future__ import annotations

import codecs

ESCAPES = "lmsteer.escapes"
# Control characters, by which a text could move the cursor of a terminal or change its colours; not line breaks, tabs.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def visible(text: str) -> str:
    """The text with its control characters written as escapes."""
    return text.translate(_CONTROLS)


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
