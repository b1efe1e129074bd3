"""Labelled texts: columns and classes are mapped, and what cannot be used is refused with its place."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmsteer.data.labelled import LabelledSource, LabelledText, read_labelled, sample_texts, texts_fingerprint
from lmsteer.errors import DataError

LABELLED = st.tuples(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from([-1.0, 0.5, 1.0]))


@pytest.mark.filterwarnings("ignore:.*may stand for a missing text")
@settings(max_examples=40)
@given(st.lists(LABELLED, min_size=2), st.randoms())
def test_any_text_is_read_back_and_known_by_its_fingerprint(tmp_path_factory, rows, random):
    texts = [LabelledText(*row) for row in dict(rows).items() if row[0].strip() and row[0] not in "ab"]
    texts += [LabelledText("a", 1.0), LabelledText("b", -1.0)]
    file = tmp_path_factory.mktemp("data") / "x.jsonl"
    file.write_bytes("".join(json.dumps({"text": t.text, "label": t.label}) + "\n" for t in texts).encode())
    assert read_labelled(file) == texts
    shuffled = random.sample(texts, len(texts))
    assert texts_fingerprint(shuffled) == texts_fingerprint(texts)
    assert texts_fingerprint([*texts, texts[0]]) != texts_fingerprint(texts)


def test_columns_and_classes_are_mapped(tmp_path):
    (tmp_path / "x.csv").write_text("review,Class\nfine,pos\nbad,neg\n")
    texts = read_labelled(
        tmp_path / "x.csv", text_column="review", label_column="class", label_map={"pos": 1, "neg": -1}
    )
    assert texts == [LabelledText("fine", 1.0), LabelledText("bad", -1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds 0 texts"),
        ('{"text": "one", "label": 1}', "holds 1 texts"),
        ('{"text": "a", "label": 1}\n{"text": "b"}', "line 2: no column 'label'; the columns are 'text'"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 1.5}', "line 2: label 1.5 is outside"),
        ('{"text": "a", "label": NaN}', "line 1: label nan is not a number"),
        ('{"text": "a", "label": null}', "line 1: label none is not a number"),
        ('{"text": "a", "label": "good"}', "not a number; map class labels"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 1}', "every label in .* is 1; texts of both ends"),
        ('{"text": 3, "label": 1}', "the text is int"),
        ('{"text": "\\ud800", "label": 1}', "half of a surrogate pair"),
        (
            '{"text": "a", "label": 1, "answer": "accept"}\n{"text": "b", "label": 1, "answer": "reject"}',
            "line 2: .*'reject'",
        ),
    ],
)
def test_texts_that_cannot_be_used_are_refused_with_their_place(tmp_path, content, message):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_labelled(tmp_path / "x.jsonl")


def test_labels_that_the_map_lacks_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na,good\n")
    with pytest.raises(DataError, match=r"line 2: label 'good' is not in the label map \(pos, neg\)"):
        read_labelled(tmp_path / "x.csv", label_map={"pos": 1.0, "neg": -1.0})


@pytest.mark.parametrize(
    ("rows", "label_map", "told"),
    [
        ("a,0\nb,1\n", None, r"go from 0 to 1, which is half .* no text is of its -1 end.* --label-map '0=-1,1=1'\.$"),
        ("a,0\nb,-1\n", None, r"half of the dimension.* no text is of its \+1 end.* --label-map '-1=-1,0=1'\.$"),
        ("a,0.2\nb,1\n", None, "half of the dimension.* scale the labels, or map them.$"),
        ("a,0\nb,1\n", {"0": -1.0, "1": 1.0}, None),
        ("a,0\nb,1\n", {"0": 0.0, "1": 1.0}, None),
        ("a,-1\nb,0\nc,1\n", None, None),
        (
            "a,1\n a,-1\nb,1\nb,1\nc,1\nc,0.5\n",
            None,
            "different labels, all .* kept: 2. The first is 'a', with -1 and 1",
        ),
        ("a,1\n ,x\n\nb,-1\n", None, "blank texts are left out: 1 of 3 rows"),
        ("a,1\nNA,1\n #N/A ,-1\nnaan,-1\n", None, "may stand for a missing text, and are kept: 2. The first is 'NA'"),
    ],
)
def test_what_may_not_be_meant_is_told_and_read(tmp_path, rows, label_map, told):
    (tmp_path / "x.csv").write_text(f"text,label\n{rows}")
    if told is None:
        assert read_labelled(tmp_path / "x.csv", label_map=label_map)
        return
    with pytest.warns(UserWarning, match=f"x.csv: .*{told}") as caught:
        assert read_labelled(tmp_path / "x.csv", label_map=label_map)
    assert [Path(each.filename).name for each in caught] == ["test_labelled.py"]


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (3, 1.0, "the labelled text 3: the text is int"),
        (None, 1.0, "the text is missing"),
        ("\ud800", 1.0, "half of a surrogate pair"),
        *(("a", label, "'a': the label must be a number from -1 to 1") for label in (2, True, "1", math.nan, None)),
    ],
)
def test_labelled_texts_of_python_are_texts_with_labels(text, label, message):
    with pytest.raises(DataError, match=message):
        LabelledText(text, label)


def test_digests_of_texts_without_prompts_stay_what_cards_hold():
    assert LabelledText("fine", 1.0).digest == 0xDBF79E57EA787C509440875AA86128A9
    chat = [{"role": "user", "content": "a"}]
    others = [LabelledText("fine", 1.0, prompt, group) for prompt in ("a", chat, None) for group in ("", "g", "h")]
    assert len({text.digest for text in others}) == 9
    assert len({text.digest >> 64 for text in others}) == 5


def test_labels_of_other_libraries_are_numbers():
    assert LabelledText("a", np.float32(0.5)) == LabelledText("a", 0.5)
    assert LabelledText("a", np.int64(1)).digest == LabelledText("a", 1.0).digest


def test_samples_depend_on_the_seed_alone(tmp_path):
    texts = [LabelledText(str(i), 1.0) for i in range(50)]
    assert sample_texts(texts, 10, 0) == sample_texts(texts, 10, 0)
    assert sample_texts(texts, 10, 0) != sample_texts(texts, 10, 1)
    assert sorted(t.text for t in sample_texts(texts, 99, 0)) == sorted(t.text for t in texts)
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"text": t.text, "label": t.label}) + "\n" for t in texts))
    assert LabelledSource(str(file), limit=10, seed=1).read() == sample_texts(texts, 10, 1)
    with pytest.raises(DataError, match="limit must be 2 texts or more; it is 1"):
        LabelledSource(str(file), limit=1).read()
