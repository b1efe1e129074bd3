"""Labelled texts: what is read, and what is refused with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.labelled import LabelledText, parse_label_map, read_labelled, sample_texts
from lmsteer.data.starter import starter_texts
from lmsteer.errors import DataError

TEXTS = [LabelledText("good", 1.0), LabelledText('so "so", they\nsaid', -0.5), LabelledText("naïve\u2028x", 0.0)]


def jsonl(texts: list[LabelledText]) -> str:
    return "".join(json.dumps({"text": t.text, "label": t.label}, ensure_ascii=False) + "\n" for t in texts)


def test_every_format_gives_the_same_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text("\ufeff" + jsonl(TEXTS), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(TEXTS).encode()))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["text", "label"])
    writer.writeheader()
    writer.writerows({"text": t.text, "label": t.label} for t in TEXTS)
    (tmp_path / "c.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")
    pq.write_table(
        pa.table({"text": [t.text for t in TEXTS], "label": [t.label for t in TEXTS]}), tmp_path / "d.parquet"
    )
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.parquet"):
        assert read_labelled(tmp_path / name) == TEXTS, name


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from([-1.0, 0.5, 1.0])), min_size=2))
def test_any_text_survives_jsonl(tmp_path_factory, rows):
    texts = [LabelledText(*row) for row in rows if row[0].strip()]
    texts += [LabelledText("a", 1.0), LabelledText("b", -1.0)]
    file = tmp_path_factory.mktemp("data") / "x.jsonl"
    file.write_bytes("".join(json.dumps({"text": t.text, "label": t.label}) + "\n" for t in texts).encode())
    assert read_labelled(file) == texts


def test_columns_and_classes_are_mapped(tmp_path):
    (tmp_path / "x.csv").write_text("review,class\nfine,pos\nbad,neg\n")
    found = read_labelled(
        tmp_path / "x.csv", text_column="review", label_column="class", label_map=parse_label_map("pos=1, neg=-1")
    )
    assert found == [LabelledText("fine", 1.0), LabelledText("bad", -1.0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"", "holds 0 texts"),
        ("x.jsonl", b'{"text": "one", "label": 1}', "holds 1 texts"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}', "line 2: no column 'label'"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": 1.5}', "line 2: label 1.5 is outside"),
        ("x.jsonl", b'{"text": "a", "label": NaN}', "line 1: label nan is outside"),
        ("x.jsonl", b'{"text": "a", "label": "good"}', "not a number; map class labels"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": 1}', "every label in .* is 1"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n[]', "line 2: each line must be an object"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text', "line 2: not JSON"),
        ("x.jsonl", b'{"text": 3, "label": 1}', "the text is int"),
        ("x.jsonl", "caf\xe9".encode("latin-1"), r"not UTF-8 \(byte 3\)"),
        ("x.jsonl.gz", b"not gzip", "cannot be read"),
        ("x.csv", b'text,label\n"open,1', "not CSV"),
        ("x.parquet", b"PAR1", "not a Parquet file"),
        ("x.txt", b"hello", "unknown kind of file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / name)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labelled(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("bad", ["", "good", "=1", "good=x", "a=1,,b=2"])
def test_label_maps_that_cannot_be_read(bad):
    with pytest.raises(DataError, match="write it like"):
        parse_label_map(bad)


def test_samples_are_the_seeds_alone():
    texts = [LabelledText(str(i), 1.0) for i in range(50)]
    assert sample_texts(texts, 10, 0) == sample_texts(texts, 10, 0)
    assert sample_texts(texts, 10, 0) != sample_texts(texts, 10, 1)
    assert sorted(t.text for t in sample_texts(texts, 99, 0)) == sorted(t.text for t in texts)


def test_other_starter_texts_are_refused():
    with pytest.raises(DataError, match="sentiment, formality"):
        starter_texts("humour")


@pytest.mark.parametrize("dimension", ["sentiment", "formality"])
def test_starter_texts_are_many_varied_and_balanced(dimension):
    texts = starter_texts(dimension)
    for label in (1.0, -1.0):
        side = [t.text for t in texts if t.label == label]
        assert len(side) >= 300
        openings = {" ".join(text.split()[:3]).lower() for text in side}
        assert len(openings) > 0.9 * len(side)
    assert len({t.text.casefold() for t in texts}) == len(texts)
    assert all(5 <= len(t.text.split()) <= 32 for t in texts)
