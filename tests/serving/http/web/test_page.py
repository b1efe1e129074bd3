"""The page's functions without a browser."""

import gradio as gr
import pytest

from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.http.web.assets import render
from lmsteer.serving.http.web.links import StateField, link_to, strengths_in
from lmsteer.serving.http.web.page import web_page


@pytest.fixture(scope="module")
def actions(endless, steers, on_a_loop):
    """The functions behind the buttons, by name."""
    service = create_service(endless, ServiceConfig(folders=[steers]))
    page = on_a_loop(web_page, service)
    yield {function.api_name: function.fn for function in page.fns.values() if function.api_name}
    service.engine.close()


def test_both_texts_equal_without_strength_and_differ_with_one(actions):
    *_, (plain, steered, summary, link) = actions["write"]("It was", 6, 0.0, 0, 0.0)
    assert plain == steered
    assert "no steer: acted on 0 of 6 tokens" in summary
    assert link == "?prompt=It+was&tokens=6&temperature=0.0&seed=0&steer.style=0.0"
    *_, (still, steered, summary, link) = actions["write"]("It was", 6, 0.0, 0, 3.0)
    assert still == plain != steered
    assert "**style** +3: acted on 6 of 6 tokens" in summary


def test_comparison_has_a_line_for_each_text(actions):
    *_, table = actions["compare"]("It was", "style", "-3, 0", 2)
    assert table.count("<tr>") == 5
    assert table.count("<td>-3</td>") == table.count("<td>+0</td>") == 2


def test_words_and_their_map_are_shown(actions):
    table, svg = actions["words"]("style")
    assert "%" in table
    assert svg.startswith("<svg")


def test_analysis_is_a_document_in_a_frame(actions):
    frame = actions["read"]("It was good.", ["style"])
    assert frame.startswith('<iframe class="reading"')
    assert "&lt;html" in frame


@pytest.mark.parametrize(
    ("action", "arguments", "message"),
    [
        ("write", ("", 6, 0.0, 0, 0.0), "the prompt is empty"),
        ("compare", ("It was", "style", "high", 1), "write numbers, like"),
        ("compare", ("It was", "style", ",".join(["1"] * 40), 2), "at most 64 texts"),
        ("read", ("", ["style"]), "at least 1 character"),
        ("read", ("text", ["nobody"]), "unknown steer 'nobody'"),
    ],
)
def test_mistakes_are_shown_on_the_page(actions, action, arguments, message):
    with pytest.raises(gr.Error, match=message):
        list(actions[action](*arguments))  # some are generators


def test_texts_are_never_html():
    assert "&lt;b&gt;" in render("table.html", heads=["text"], lines=[["<b>bold</b>"]])


def test_link_restores_a_state():
    prompt, strength = (
        StateField("prompt", gr.Textbox("default"), str),
        StateField.of_steer("style", gr.Slider(0, 5, 1)),
    )
    assert link_to({"prompt": "a & b", "steer.style": 2.5}) == "?prompt=a+%26+b&steer.style=2.5"
    query = {"prompt": "a & b", "steer.style": "2.5"}
    assert (prompt.restore(query), strength.restore(query)) == ("a & b", 2.5)
    assert (prompt.restore({}), strength.restore({"steer.style": "high"})) == ("default", 1)
    assert strengths_in({"prompt": "a", "steer.style": 2.5, "steer.other": 0}) == {"style": 2.5}
