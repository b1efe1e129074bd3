"""gather reads a stream into statistics, which fit solves; what it cannot read ends in one line and status 2."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

import lmsteer
from tiny import styled


def write_texts(path: str) -> None:
    lines = "".join(json.dumps({"text": text.text, "label": text.label}) + "\n" for text in styled(240))
    Path(path).write_bytes(gzip.compress(lines.encode()) if path.endswith(".gz") else lines.encode())


@pytest.mark.parametrize("path", ["texts.jsonl", "texts.jsonl.gz"])
def test_a_stream_becomes_a_steer(run, path):
    write_texts(path)
    status, out, _ = run("gather", path, "--out", "stats", "--json")
    assert status == 0
    assert json.loads(out)["texts"] == 240
    status, out, _ = run("fit", "--statistics", "stats", "--name", "tone")
    assert status == 0
    assert "sign accuracy" in out
    status, out, _ = run("gather", path, "--out", "stats", "--resume")
    assert status == 0
    assert "240 texts" in out


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', ["texts.jsonl"], "texts.jsonl, line 2"),
        ('{"text": "a", "label": 1}\n{"text": \n', ["texts.jsonl"], "texts.jsonl, line 2: not JSON"),
        ("[1]\n", ["texts.jsonl"], "each row must be an object"),
        ("", ["gone.jsonl"], "gone.jsonl: no such file"),
        ("text,label\na,1\n", ["texts.csv"], "texts.csv is read as a whole; a stream is a .jsonl or .parquet file"),
        (b"\xff\xfe", ["texts.jsonl"], "texts.jsonl, line 1: not UTF-8"),
        (b"\x1f\x8b\x08broken", ["texts.jsonl"], "texts.jsonl cannot be read"),
        (b"PK\x03\x04", ["texts.jsonl"], "is an archive"),
        ('{"text": "a", "label": 1}\n', ["texts.jsonl", "--split", "test"], "leave out --split"),
    ],
)
def test_what_cannot_be_streamed_is_told_before_the_model_is_loaded(run, monkeypatch, content, arguments, message):
    monkeypatch.setattr(lmsteer, "load", lambda *_, **__: pytest.fail("loaded"))
    file = "texts.csv" if arguments[0] == "texts.csv" else "texts.jsonl"
    Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, _, err = run("gather", *arguments, "--out", "stats")
    assert status == 2
    assert message in err
    assert not Path("stats").exists()
