"""Prompts in every notation are read, and those that cannot be are refused with their line."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.prompts import read_prompts
from lmsteer.errors import DataError

ANY_TEXT = st.text(st.characters(codec="utf-8"))
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1).filter(
    lambda line: line.strip() and not line.lstrip().startswith("{") and not line.startswith("\ufeff")
)


def test_every_notation_is_read(tmp_path, monkeypatch):
    lines = ['{"prompt": {"text": "a"}}', '{"prompt": "b"}', "", '{"text": "c"}', "plain { line"]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    assert read_prompts(tmp_path / "p.jsonl") == ["a", "b", "c", "plain { line"]
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert read_prompts("-") == ["one", "two"]


@settings(max_examples=40)
@given(st.lists(LINES, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_any_plain_lines_are_read_back(tmp_path_factory, prompts, end):
    file = tmp_path_factory.mktemp("prompts") / "p.txt"
    file.write_bytes(end.join(prompts).encode())
    assert read_prompts(file) == prompts


@settings(max_examples=40)
@given(st.lists(st.tuples(ANY_TEXT, st.integers(0, 2)), min_size=1, max_size=4))
def test_any_texts_are_read_back_from_every_kind_of_object(tmp_path_factory, prompts):
    ways = (lambda text: {"prompt": {"text": text}}, lambda text: {"prompt": text}, lambda text: {"text": text})
    file = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    file.write_text("\n".join(json.dumps(ways[way](text)) for text, way in prompts))
    assert read_prompts(file) == [text for text, _ in prompts]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no prompts"), ('a\n{"x": 1}', "line 2: no prompt"), ("{", "line 1: not JSON"), ('{"text": 1}', "no prompt")],
)
def test_lines_without_a_prompt_are_refused(tmp_path, content, message):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "p.jsonl")
