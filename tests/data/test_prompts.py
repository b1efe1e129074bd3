"""Prompts in every notation are read, and those that cannot be are refused with their line."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.prompts import read_prompts
from lmsteer.errors import DataError

ANY_TEXT = st.text(st.characters(codec="utf-8"))
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), min_size=1).filter(
    lambda line: line.strip() and not line.lstrip().startswith("{") and not line.startswith("\ufeff")
)


def test_every_notation_is_read(tmp_path, monkeypatch):
    lines = ['{"prompt": {"text": "a"}}', '{"prompt": "b"}', "", '{"text": "c"}', "plain { line"]
    (tmp_path / "p.txt").write_text("\n".join(lines))
    assert read_prompts(tmp_path / "p.txt") == ["a", "b", "c", "plain { line"]
    (tmp_path / "joined.txt").write_bytes(b'one\rtwo\r\n\xef\xbb\xbf{"prompt": "three"}\n\xef\xbb\xbffour')
    assert read_prompts(tmp_path / "joined.txt") == ["one", "two", "three", "four"]
    (tmp_path / "array.txt").write_text('[\n{"prompt": "one"},\n{"text": "[two"}]')
    assert read_prompts(tmp_path / "array.txt") == ["one", "[two"]
    (tmp_path / "scene.txt").write_text("[Scene 1]\n[1, 2]")
    assert read_prompts(tmp_path / "scene.txt") == ["[Scene 1]", "[1, 2]"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO("one\ncaf\xe9\n".encode())))
    assert read_prompts("-") == ["one", "caf\xe9"]


def test_data_files_have_a_column_of_prompts(tmp_path):
    contents = {
        "a.jsonl": '{"prompt": {"text": "one"}, "text": "x"}\n{"text": "two"}\n',
        "b.json": '[{"Prompt": "one"}, {"prompt": "two"}]',
        "c.json": '{"prompt": {"0": "one", "1": "two"}}',
        "d.csv": "id,prompt\n1,one\n2,two\n",
        "e.tsv": "text\tid\none\t1\ntwo\t2\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert read_prompts(tmp_path / name) == ["one", "two"], name


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
    [
        ("", "holds no prompts"),
        ('a\n{"x": 1}', "line 2: no column 'prompt' or 'text'; the columns are 'x'"),
        ("{", "line 1: not JSON"),
        ('a\n{"text": 1}', "line 2: the prompt is int"),
        ('{"prompt": {"id": 1}}', "line 1: the prompt is dict"),
        ('a\n\n{"text": "a", "text": "b"}', "line 3: the key 'text' stands twice"),
        ('{"text": "\\udc80"}', "line 1: the prompt holds half of a surrogate pair"),
    ],
)
def test_lines_without_a_prompt_are_refused(tmp_path, content, message):
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "p.txt")


def test_data_files_without_a_column_of_prompts_are_refused(tmp_path):
    (tmp_path / "p.csv").write_text("good,bad\na,b\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\nplain\n')
    with pytest.raises(DataError, match=r"p.csv, line 2: no column 'prompt' or 'text'; the columns are 'good', 'bad'"):
        read_prompts(tmp_path / "p.csv")
    with pytest.raises(DataError, match=r"p.jsonl, line 2: not JSON"):
        read_prompts(tmp_path / "p.jsonl")
