"""Files are unpacked and decoded as they are, whatever their names are; what is no text is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from types import SimpleNamespace

import pytest

from lmsteer.data.text_files import lines_of, read_standard_input, read_text
from lmsteer.errors import DataError

TEXT = "caf\xe9 \U0001f600\r\nend"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, lambda x: gzip.compress(bz2.compress(x))]
)
def test_packed_files_of_known_encodings_are_read(tmp_path, monkeypatch, encoding, pack):
    content = pack(TEXT.encode(encoding))
    (tmp_path / "x").write_bytes(content)
    assert read_text(tmp_path / "x") == TEXT
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_standard_input() == TEXT


def test_files_in_utf_16_with_the_other_order_of_bytes_and_several_marks_are_read(tmp_path):
    (tmp_path / "x").write_bytes("\ufeffone".encode("utf-16-be"))
    (tmp_path / "y").write_bytes("\ufeff\ufefftwo".encode())
    assert (read_text(tmp_path / "x"), read_text(tmp_path / "y")) == ("one", "two")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\ncaf\xe9", r"x, line 3: not UTF-8 \(byte 7\); convert the file"),
        ("text".encode("utf-16-le"), "x, line 1: a NUL character.* convert it with `iconv -f UTF-16"),
        (b"\xff\xfea", "x, line 1: not UTF-16"),
        (gzip.compress(b"text" * 99, mtime=0)[:-9], "x cannot be read"),
        (bz2.compress(b"text" * 99)[:-9], "x cannot be read"),
        (lzma.compress(b"text" * 99)[:-9], "x cannot be read"),
        (b"\x28\xb5\x2f\xfd12", "packed by zstd; unpack it"),
        (b"PK\x03\x0412", "an archive or a spreadsheet"),
        (gzip.compress(b"PAR112", mtime=0), "a Parquet file; give it a name"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; fetch"),
    ],
)
def test_what_is_no_text_is_refused_with_what_to_do(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "x")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_text(tmp_path / "gone.txt")


def test_lines_end_as_on_any_system_and_at_no_other_character():
    assert lines_of("a\r\nb\rc\n\nd\u2028e\x85f\x0cg") == ["a", "b", "c", "", "d\u2028e\x85f\x0cg"]
