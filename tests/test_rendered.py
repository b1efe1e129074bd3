"""The tables of README and docs are those of the committed results; ``python -m benchmarks.render`` writes them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.render import MARKED, ROOT, pages, rendered, stale
from benchmarks.tables import TABLES
from benchmarks.tables.markdown import percent, short, table, times

TEXTS = {page: page.read_text(encoding="utf-8") for page in pages()}


def test_no_page_is_stale():
    pages = ", ".join(str(page.relative_to(ROOT)) for page in stale())
    assert not pages, f"stale: {pages}. Run `python -m benchmarks.render`."


def test_every_table_stands_on_a_page():
    placed = {found["name"] for text in TEXTS.values() for found in MARKED.finditer(text)}
    assert placed == set(TABLES)


def test_every_marker_is_closed():
    for page, text in TEXTS.items():
        assert text.count("<!-- rendered: ") == len(MARKED.findall(text)) == text.count("<!-- end -->"), page


def test_a_changed_number_is_put_right():
    page = next(page for page, text in TEXTS.items() if MARKED.search(text))
    found = MARKED.search(TEXTS[page])
    assert found is not None
    changed = TEXTS[page].replace(found[0], f"{found[1]}| old |\n{found[3]}")
    assert changed != TEXTS[page]
    assert rendered(changed) == TEXTS[page]


def test_an_unknown_table_is_refused():
    with pytest.raises(KeyError, match="nothing"):
        rendered("<!-- rendered: nothing -->\n<!-- end -->")


def test_rendering_needs_no_torch():
    code = "import sys, benchmarks.render; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        table(["a", "b"], [["1"]])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (table(["a", "b"], [["1", "2"]]), "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        (percent(0.8512), "85 %"),
        (percent(0.8512, 1), "85.1 %"),
        (short(0.0125, 4), ".0125"),
        (short(1.06), "1.060"),
        (short(-0.5), "-0.500"),
        (times(1.024), "1.02 x"),
        (times(2.64), "2.6 x"),
        (times(16.4), "16 x"),
    ],
)
def test_numbers_are_written_as_the_pages_have_them(written, expected):
    assert written == expected
