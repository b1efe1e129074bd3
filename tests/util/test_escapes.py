"""Characters that cannot be written as they are become escapes; all others stay."""

from __future__ import annotations

import json

import pytest

from lmsteer.util.escapes import ESCAPES, has_half_character, one_line, printable, visible, visible_json

TEXT = "é 漢 😀\n\t"


def test_what_can_be_written_stays():
    assert visible(TEXT) == visible_json(TEXT) == printable(TEXT) == TEXT
    assert not has_half_character(TEXT)


def test_control_characters_cannot_reach_a_terminal():
    assert visible("\x1b[31m\x9b\r") == "\\x1b[31m\\x9b\\x0d"
    assert one_line(" a\x07\r\n\n  b\n") == "a\\x07 b"
    written = visible_json(json.dumps(["\x7f\x9b\x1b"], ensure_ascii=False))
    assert written.isascii()
    assert json.loads(written) == ["\x7f\x9b\x1b"]


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDC00)], ids=["first", "second"])
def test_halves_of_characters_become_escapes(half):
    assert has_half_character(f"a{half}")
    assert printable(f"a{half}") == f"a\\u{ord(half):04x}"


def test_what_an_encoding_cannot_hold_is_read_as_json():
    assert json.loads(json.dumps(TEXT, ensure_ascii=False).encode("ascii", ESCAPES)) == TEXT
