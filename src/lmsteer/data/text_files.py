"""The text of files: packed or not, in UTF-8, or in an encoding that the file itself names."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from lmsteer.errors import DataError

# How the files begin that a module of the standard library unpacks, whatever their names are.
_PACKED = {rb"\x1f\x8b": "gzip", rb"BZh[1-9][1\x17][Ar]": "bz2", rb"\xfd7zXZ\x00": "lzma"}
# How other files begin that are no text, and what to do with them.
_OTHER_KINDS = {
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it with `zstd -d`",
    b"PK\x03\x04": "is an archive or a spreadsheet; unpack it, or save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet; save the sheet as CSV in UTF-8",
    b"PAR1": "is a Parquet file; give it a name that ends in .parquet",
    b"ARROW1": "is an Arrow file; save it as Parquet",
    b"%PDF": "is a PDF; save its text in UTF-8",
    b"version https://git-lfs": "is only a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16 does, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The text of a file, which may be packed by gzip, bzip2 or xz, without its byte order mark.

    Raises:
        DataError: the file cannot be read, is no text, or is not UTF-8, nor UTF-16 or UTF-32 with a byte order mark.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _text(str(path), content)


def read_standard_input() -> str:
    """The text on standard input, read as a file is.

    Raises:
        DataError: it is closed or cannot be read, is no text, or is not UTF-8, nor UTF-16 or UTF-32 with a byte order
            mark.
    """
    if sys.stdin is None:
        raise DataError("standard input is closed: give a file.")
    try:
        content = sys.stdin.buffer.read()
    except OSError as error:
        raise DataError(f"cannot read standard input: {error}.") from error
    return _text("standard input", content)


def stream_lines(path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, which may be packed once, one at a time and without their line breaks.

    Raises:
        DataError: the file cannot be read, is no text, or is not UTF-8.
    """
    try:
        with path.open("rb") as start:
            head = start.read(64)
        check_kind(str(path), head)
        opened = next((module for mark, module in _PACKED.items() if re.match(mark, head, re.DOTALL)), "io")
        with import_module(opened).open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield _decoded(f"{path}, line {number}", line.rstrip(b"\r\n"), "utf-8-sig" if number == 1 else "utf-8")
    except DataError:
        raise
    except Exception as error:  # each module raises kinds of its own
        raise DataError(f"{path} cannot be read: {error}.") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text, which end as on any system, and at no other character, since a text may hold it."""
    return re.split(r"\r\n|\n|\r", text)


def check_kind(name: str, head: bytes) -> None:
    """Refuse a file whose first bytes are those of another kind of file.

    Raises:
        DataError: they are; the message says of which.
    """
    for start, advice in _OTHER_KINDS.items():
        if head.startswith(start):
            raise DataError(f"{name} {advice}.")


def _decoded(place: str, line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 (byte {error.start}); convert the file.") from error


def _text(name: str, content: bytes) -> str:
    content = _unpacked(name, content)
    check_kind(name, content)
    encoding = next((encoding for mark, encoding in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: not {encoding.upper()} (byte {error.start}); convert the file, "
            "for example with `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{name}, line {line}: a NUL character, which no text file holds; if the file is UTF-16, "
            "convert it with `iconv -f UTF-16 -t UTF-8`."
        )
    return text


def _unpacked(name: str, content: bytes) -> bytes:
    """The content of a file that was packed once, several times or not at all."""
    while module := next((module for start, module in _PACKED.items() if re.match(start, content, re.DOTALL)), None):
        try:
            content = import_module(module).decompress(content)
        except Exception as error:  # each module raises kinds of its own
            raise DataError(f"{name} cannot be read: {error}.") from error
    return content
