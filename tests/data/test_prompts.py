"""Prompts in, continuations out."""

from __future__ import annotations

import io
import json

import pytest

from lmsteer.data.prompts import read_prompts
from lmsteer.errors import DataError
from lmsteer.generation.generate import Continuation
from lmsteer.generation.published import as_published
from lmsteer.util.files import write_jsonl


def test_every_notation_is_read(tmp_path, monkeypatch):
    lines = ['{"prompt": {"text": "a"}}', '{"prompt": "b"}', "", '{"text": "c"}', "plain { line"]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    assert read_prompts(tmp_path / "p.jsonl") == ["a", "b", "c", "plain { line"]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert read_prompts("-") == ["one", "two"]


@pytest.mark.parametrize(("content", "message"), [("", "no prompts"), ('{"x": 1}', "no prompt"), ("{", "not JSON")])
def test_what_is_no_prompt_is_refused(tmp_path, content, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "p.jsonl")


def test_the_published_format_comes_out(tmp_path):
    told = (("a", "x", 0), ("a", "y", 1), ("b", "z", 0), ("b", "u", 1), ("b", "v", 0), ("b", "w", 1))
    rows = [Continuation(p, t, {"s": 1.0}, k, 3, -1.0) for p, t, k in told]
    write_jsonl(tmp_path / "o.jsonl", as_published(rows, 2))
    found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["prompt"]["text"] for line in found] == ["a", "b", "b"]
    assert [g["text"] for g in found[0]["generations"]] == ["x", "y"]
    with pytest.raises(DataError, match="cannot write"):
        write_jsonl(tmp_path / "o.jsonl" / "x", [])
