"""Rows of every format: they are known by their columns, and read alike from every kind of file."""

from __future__ import annotations

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from lmsteer.data.chats import Chat, Message
from lmsteer.data.labelled import LabelledSource, LabelledText, sample_texts
from lmsteer.errors import DataError


def says(*contents, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


ASKED = Chat((Message("user", "Well?"),))
SYSTEM = [{"role": "system", "content": "Be nice."}]
TALK = says("Hi.", "Hello.", "Well?")


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return path


def read(path, **options):
    told = []
    return LabelledSource(str(path), **options).read(told.append), told


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("row", "prompt", "texts"),
    [
        ({"text": "Good.", "label": 1}, None, {"Good.": 1}),
        ({"prompt": "Well?", "completion": " Good.", "label": 1}, "Well?", {" Good.": 1}),
        ({"prompt": "", "completion": "Good.", "label": 1}, None, {"Good.": 1}),
        ({"prompt": says("Well?"), "completion": says("Good.", first="assistant"), "label": -1}, ASKED, {"Good.": -1}),
        ({"prompt": says("Well?"), "completion": "Good.", "label": -1}, ASKED, {"Good.": -1}),
        ({"messages": says("Well?", "Good."), "label": 0.5}, ASKED, {"Good.": 0.5}),
        ({"messages": [*TALK, *says("Good.", first="assistant")], "label": 1}, TALK, {"Good.": 1}),
        ({"prompt": "Well?", "chosen": " Good.", "rejected": " Bad."}, "Well?", {" Good.": 1, " Bad.": -1}),
        ({"chosen": "It is good.", "rejected": "It is grim."}, "It is", {" good.": 1, " grim.": -1}),
        ({"chosen": "Good.", "rejected": "Bad."}, None, {"Good.": 1, "Bad.": -1}),
        (
            {
                "prompt": says("Well?"),
                "chosen": says("Good.", first="assistant"),
                "rejected": says("Bad.", first="assistant"),
            },
            ASKED,
            {"Good.": 1, "Bad.": -1},
        ),
        (
            {"chosen": [*SYSTEM, *says("Well?", "Good.")], "rejected": [*SYSTEM, *says("Well?", "Bad.")]},
            [*SYSTEM, *says("Well?")],
            {"Good.": 1, "Bad.": -1},
        ),
        (  # as in ultrafeedback_binarized: the prompt is repeated as a string, and there are messages without labels
            {
                "prompt": "Well?",
                "chosen": says("Well?", "Good."),
                "rejected": says("Well?", "Bad."),
                "messages": says("Well?", "Good."),
                "score_chosen": 8.5,
            },
            ASKED,
            {"Good.": 1, "Bad.": -1},
        ),
    ],
)
def test_a_row_is_read_by_its_columns(tmp_path, suffix, row, prompt, texts):
    found, told = read(write(tmp_path / f"x{suffix}", [row]))
    assert {each.text: each.label for each in found} == texts
    assert all(each == LabelledText(each.text, each.label, prompt, each.group) for each in found)
    assert len({each.group for each in found}) == 1
    assert bool(found[0].group) == ("chosen" in row)
    assert not [line for line in told if "half of the dimension" not in line]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"words": "a", "label": 1}, "line 1: no column 'text'; the columns are 'words', 'label'.*chosen and rejected"),
        (
            {"text": "a", "completion": "b", "prompt": "c", "label": 1},
            "may mean a text .text. or a text after a prompt",
        ),
        ({"messages": [], "chosen": "a", "rejected": "b", "label": 1}, r"a conversation \(messages\) or a pair"),
        ({"completion": "b", "label": 1}, "no column 'prompt'"),
        ({"prompt": "a", "completion": "b"}, "no column 'label'"),
        ({"messages": says("a", "b")}, "no column 'label'"),
        ({"prompt": None, "completion": "b", "label": 1}, r"line 1: the prompt is missing \(null\)"),
        ({"prompt": 3, "completion": "b", "label": 1}, "line 1: the prompt is int"),
        ({"messages": {"role": "user"}, "label": 1}, "the messages is dict"),
        ({"messages": '"a"', "label": 1}, "the messages are a string"),
        ({"messages": "[{'role': 'user', 'content': 'a'}]", "label": 1}, "as Python writes it; write messages as JSON"),
        ({"messages": '[{"role": "user"', "label": 1}, "line 1, messages: not JSON"),
        ({"messages": says("a"), "label": 1}, "the last message is of the role 'user'"),
        ({"messages": says("a", first="assistant"), "label": 1}, "no turn before that of the assistant"),
        ({"messages": [{"role": "bot", "content": "a"}], "label": 1}, "line 1: message 1 .* the role 'bot'"),
        ({"prompt": says("a", "b"), "completion": "c", "label": 1}, "ends with a turn of the assistant"),
        ({"prompt": "a", "completion": says("b", first="assistant"), "label": 1}, "but the prompt is a string"),
        ({"prompt": says("a"), "completion": says("b", "c"), "label": 1}, "messages are of: user, assistant"),
        ({"chosen": says("a", "b"), "rejected": "b"}, "the chosen text is a list of messages, but the rejected one a"),
        ({"chosen": says("a", "b"), "rejected": says("c", "d")}, "differ before their last turn"),
        ({"chosen": says("a"), "rejected": says("b")}, "the chosen conversation does not end with"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "x.jsonl", [row]))


def test_all_rows_have_the_format_of_the_first(tmp_path):
    with pytest.raises(DataError, match="line 2: no column 'chosen'"):
        read(write(tmp_path / "x.jsonl", [{"chosen": "a", "rejected": "b"}, {"text": "a", "label": 1}]))


def test_a_chosen_column_means_texts_by_themselves(tmp_path):
    row = {"prompt": "a", "completion": "b", "review": "c", "label": 1}
    assert read(write(tmp_path / "x.jsonl", [row]), text_column="review")[0] == [LabelledText("c", 1)]


def test_pairs_take_no_label_map(tmp_path):
    with pytest.raises(DataError, match="a pair has no labels to map; leave out --label-map"):
        read(write(tmp_path / "x.jsonl", [{"chosen": "a", "rejected": "b"}]), label_map={"a": 1.0})


def test_pairs_that_say_nothing_are_left_out_and_told(tmp_path):
    pairs = [("a", "b"), ("a", "a"), ("a ", " "), ("c", "b"), ("c", "c")]
    rows = [{"prompt": "Well? ", "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    texts, told = read(write(tmp_path / "x.jsonl", rows))
    assert [each.text for each in texts] == ["a", "b", "c", "b"]
    file = tmp_path / "x.jsonl"
    assert told == [
        f"{file}: blank texts are left out: 1 of 5 rows. The first is in {file}, line 3.",
        f"{file}: pairs of twice the same text are left out: 2 of 4 rows. The first is in {file}, line 2.",
    ]


def test_texts_without_space_after_their_prompts_are_told(tmp_path):
    rows = [{"prompt": "Well?", "completion": text, "label": label} for text, label in (("Good", 1), (" Bad", -1))]
    assert (
        "between them: 1 of 2. They are read as they stand; the first is 'Well?Good'."
        in read(write(tmp_path / "x.jsonl", rows))[1][0]
    )


def test_the_same_text_after_another_prompt_is_no_contradiction(tmp_path):
    rows = [{"prompt": prompt, "completion": " Yes.", "label": label} for prompt, label in (("A?", 1), ("B?", -1))]
    assert read(write(tmp_path / "x.jsonl", rows))[1] == []
    rows = [{"prompt": "A?", "completion": " Yes.", "label": label} for label in (1, -1)]
    assert "different labels" in read(write(tmp_path / "x.jsonl", rows))[1][0]


def test_samples_draw_pairs_whole(tmp_path):
    rows = [{"prompt": "A?", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(20)]
    texts, _ = read(write(tmp_path / "x.jsonl", rows), limit=7)
    assert len(texts) == 6
    assert all(len([each for each in texts if each.group == text.group]) == 2 for text in texts)
    assert len(sample_texts(texts, 99, 0)) == 6
