"""CSV is read as it was written, or refused with the line of the fault."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lmsteer.data.csv_rows import csv_rows
from lmsteer.errors import DataError

CELLS = st.text(st.sampled_from("ab ,;|\t\"'\\\n\r\u2028é1"), max_size=8)
SEPARATORS = st.sampled_from([",", ";", "\t", "|"])
COLUMNS = ["text", "label"]
SPACED = [{"label": "1", "text": "great, and lovely"}, {"label": "2", "text": "b"}]


def rows_of(content: str, separator: str = ",") -> list[dict[str, str]]:
    return [dict(row) for _, row in csv_rows("x", content, separator)]


def written(rows, **dialect) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **dialect).writerows([COLUMNS, *rows])
    return buffer.getvalue()


def of_cells(rows) -> list[dict[str, str]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows if any(cell.strip() for cell in row)]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=4),
    SEPARATORS,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
def test_what_csv_and_pandas_write_and_read_alike_is_read_so(rows, separator, end, quoting, by_pandas):
    if by_pandas:
        frame = pd.DataFrame(rows, columns=COLUMNS, dtype=str)
        content = frame.to_csv(sep=separator, lineterminator=end, quoting=quoting, index=False)
    else:
        content = written(rows, delimiter=separator, lineterminator=end, quoting=quoting)
    read = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator))
    assume(read[1:] == [list(row) for row in rows])  # they do not agree about lone "\r" without quotes
    try:
        assert rows_of(content, separator) == rows_of(content) == of_cells(rows)
    except DataError:
        assert separator == "\t"  # beside which alone it is open whether quotes are meant
    known = pd.read_csv(io.StringIO(content), sep=separator, dtype=str, keep_default_na=False)
    assert of_cells(known.itertuples(index=False)) == of_cells(rows) or "\r" in "".join(map("".join, rows))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3),
    SEPARATORS,
    st.sampled_from(['"', "'"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_NONE]),
    st.booleans(),
)
@example([('say "hi"', "1")], ",", '"', csv.QUOTE_NONE, True)
@example([("one, two", "1")], ",", "'", csv.QUOTE_MINIMAL, True)
def test_other_dialects_are_refused_or_read_as_csv_reads_them(rows, separator, quote, quoting, spaced):
    content = written(
        rows,
        delimiter=separator,
        quotechar=quote,
        quoting=quoting,
        escapechar="\\",
        doublequote=False,
        skipinitialspace=spaced,
    )
    try:
        read = rows_of(content, separator)
    except DataError:
        return
    quotings = [csv.QUOTE_MINIMAL, *([csv.QUOTE_NONE] if separator == "\t" else [])]
    known = [csv.reader(io.StringIO(content, newline=""), delimiter=separator, quoting=each) for each in quotings]
    assert [list(row.values()) for row in read] in [
        [row for row in each if any(map(str.strip, row))][1:] for each in known
    ]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("text;label\none, two;0,5\n", [{"text": "one, two", "label": "0,5"}]),
        ("text|label\na;b|1\n", [{"text": "a;b", "label": "1"}]),
        ("text,label;x\na,1\n", [{"text": "a", "label;x": "1"}]),
        ('"text; or not";label\na;1\n', [{"text; or not": "a", "label": "1"}]),
        ("sep=;\ntext;label\na,b;1\n", [{"text": "a,b", "label": "1"}]),
        ('"sep=|"\r\ntext|a;b\r\na,b|1\r\n', [{"text": "a,b", "a;b": "1"}]),
        ("\n\ntext, label \n\na,1\n , \n,\n", [{"text": "a", "label": "1"}]),
        (",text,label\n0,a,1\n", [{"text": "a", "label": "1"}]),
        ("text,label,,\na,1,, \n,,,\n", [{"text": "a", "label": "1"}]),
        ('label, text\n1, "great, and lovely"\n2,b\n3, c \n', [*SPACED, {"label": "3", "text": "c "}]),
        ("label,text\n1, b\n", [{"label": "1", "text": " b"}]),
        ('text,label\n5" wide,1\n', [{"text": '5" wide', "label": "1"}]),
        ('text,label\n"x\\""",1\n"c:\\",2\n', [{"text": 'x\\"', "label": "1"}, {"text": "c:\\", "label": "2"}]),
        ("text\n" + "x" * 200_000, [{"text": "x" * 200_000}]),
        ("text,label\n1e5,nan\n", [{"text": "1e5", "label": "nan"}]),
        ("", []),
    ],
)
def test_the_header_shows_how_rows_are_written(content, rows):
    assert rows_of(content) == rows


def test_quotes_in_files_with_tabs_are_quotes_where_all_are_meant_so():
    head = "text\tlabel\n"
    film = '"the film\t1\nfine\t0\ngreat"\t0\n'
    assert rows_of(head + '"Great" he said\t1\n' + film)[::3] == [
        {"text": '"Great" he said', "label": "1"},
        {"text": 'great"', "label": "0"},
    ]
    assert rows_of(head + '"a ""b""\nc"\t1\n') == [{"text": 'a "b"\nc', "label": "1"}]
    assert rows_of(head + '"a"\t1\nb\t0\n')[0] == {"text": "a", "label": "1"}
    for before, line in (("", 2), ('"quoted"\t1\n', 3)):
        with pytest.raises(DataError, match=f"line {line}: a quote opens here and closes 2 lines below, but each of"):
            rows_of(head + before + film)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,text\n1,the food was great, and the staff, too\n", "line 2: 4 fields, but the header has 2; quote the"),
        ("label;text\n1;great; and lovely\n", "line 2: 3 fields.* quote the text if it holds a semicolon"),
        ('a,b\n1,2\n"one\ntwo"\n', "line 3: 1 fields, but the header has 2; .* a line break"),
        ('a,b\n1,2\n\n"one\ntwo",3,4\n5,6\n', "line 4: 3 fields"),
        ('a,b\n1,2\n"one\ntwo"x,3\n5,6\n', "line 3: not CSV: ',' expected after '\"', in the row that begins here"),
        ('a,b\n1,2\n"open,3\n5,6\n', "line 3: not CSV: unexpected end of data"),
        ('sep=,\na,b\n1,2\n"open,3\n', "line 4: not CSV"),
        ("a,b\r1,2\r3\r", "line 3: 1 fields"),
        ("text,label,label\ngood,1,-1\n", "line 1: two columns are named 'label'"),
        ("text, label,label \ngood,1,-1\n", "line 1: two columns are named 'label'"),
        ("label,text,\n1,great, and lovely\n", "line 2: ' and lovely' stands in column 3, which has no name"),
        ("text;label|x\na;1|2\n", "x: the header may be separated by a semicolon or a bar"),
        ('label,text\n1, "great and lovely"\n', "line 2: ' \"great and lovely\"' holds quotes that are not CSV's"),
        ('text,label\nsay \\"hi\\",1\n', "line 2: .* holds quotes that are not CSV's; .* each quote within it twice"),
        ('text,label\n"say \\"hi\\"",1\n', "line 2: not CSV"),
    ],
)
def test_rows_that_may_be_meant_otherwise_are_refused_with_the_line_of_the_fault(content, message):
    with pytest.raises(DataError, match=message):
        rows_of(content)
