"""The page's functions without a browser."""

import re
from html import unescape

import gradio as gr
import pytest

from lmsteer import save_steer
from lmsteer.data.chats import Chat
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import generate
from lmsteer.serving.http.run import ServiceConfig, create_service
from lmsteer.serving.http.web.assets import render
from lmsteer.serving.http.web.links import StateField, link_to, strengths_in
from lmsteer.serving.http.web.page import _STRENGTHS, web_page
from lmsteer.steer.lookup import find_card
from tiny import THINKING, chat_lm, read_steer


@pytest.fixture(scope="module")
def actions(endless, steers, on_a_loop):
    """The functions behind the buttons, by name."""
    service = create_service(endless, ServiceConfig(folders=[steers]))
    page = on_a_loop(web_page, service)
    yield {function.api_name: function.fn for function in page.fns.values() if function.api_name}
    service.engine.close()


def asked(
    prompt="It was", strength=0.0, tint="style", limits=(0.0, 0, 0.0), window=(0, 0, "flat"), hold=("none", 0.8, 0)
):
    """The values of the inputs: the prompt, tokens, temperature, seed, limits, window, hold, the strength, the tint."""
    return prompt, 6, 0.0, 0, *limits, *window, *hold, strength, tint


def words(html):
    """The text in a piece of HTML, without its heading and its figures."""
    return unescape(re.sub("<h3>.*</h3>|<p class=.figures.*|<[^>]*>", "", html)).strip()


def test_both_texts_equal_without_strength_and_differ_with_one(actions):
    *_, (plain, steered, summary, _, link) = actions["write"](*asked())
    assert words(plain) == words(steered)
    assert "no steer: acted on 0 of 6 tokens" in summary
    limits = "plausible=0.0&fresh=0&kl=0.0&from=0&before=0&shape=flat&hold=none&level=0.8&most=0"
    assert link == f"?prompt=It+was&tokens=6&temperature=0.0&seed=0&{limits}&steer.style=0.0&tint=style"
    *_, (still, steered, summary, _, link) = actions["write"](*asked(strength=3.0))
    assert still == plain
    assert words(steered) != words(plain)
    assert "**style** +3: acted on 6 of 6 tokens" in summary


def test_tokens_are_tinted_by_the_steer_that_was_chosen(actions):
    *_, (plain, steered, _, meaning, _) = actions["write"](*asked(strength=3.0))
    assert "unsteered" in steered
    assert "divergence 0.00 nats" in plain
    assert "mean divergence 0.00" in plain
    assert "style +1" in meaning
    *_, (without, same, _, meaning, _) = actions["write"](*asked(strength=3.0, tint="none"))
    assert [words(without), words(same)] == [words(plain), words(steered)]
    assert "<mark" not in without + same
    assert not meaning


def test_the_strengths_that_are_compared_at_first_are_safe():
    low, high = find_card("sentiment").safe_range
    assert all(low <= float(strength) <= high for strength in _STRENGTHS.split(","))


def test_limits_act_on_the_page(actions):
    *_, (plain, steered, *_) = actions["write"](*asked(strength=6.0))
    *_, (still, limited, *_) = actions["write"](*asked(strength=6.0, limits=(0.0, 10, 0.05)))
    assert still == plain
    assert words(limited) != words(steered)
    assert "strengths scaled to" in limited
    assert "acted on" in [*actions["write"](*asked(limits=(0.1, 10, 0.5)))][-1][2]  # limits of steers without one


def test_windows_and_holds_act_as_in_requests(actions):
    *_, (_, steered, *_) = actions["write"](*asked(strength=3.0))
    *_, (plain, late, summary, *_) = actions["write"](*asked(strength=3.0, window=(2, 5, "flat")))
    assert "**style** +3@2..5: acted on 3 of 6 tokens" in summary
    assert len({words(each) for each in (plain, late, steered)}) == 3
    *_, (_, _, summary, *_) = actions["write"](*asked(strength=3.0, window=(None, 4, "rise"), tint="none"))
    assert "**style** +3@rise..4: acted on 5 of 6 tokens" in summary
    *_, (_, held, summary, *_) = actions["write"](*asked(hold=("style", 0.9, 4), window=(1, None, "flat")))
    assert "**style** hold 0.9@max4@1..: acted on 5 of 6 tokens" in summary
    assert words(held) != words(plain)


def test_a_chat_is_answered_where_the_steers_act_in_a_part_of_answers(tmp_path, on_a_loop):
    lm = chat_lm(THINKING, ["<think>"])
    save_steer(read_steer(lm), tmp_path / "style")
    service = create_service(lm, ServiceConfig(folders=[tmp_path]))
    try:
        page = on_a_loop(web_page, service)
        (write,) = {function.fn for function in page.fns.values() if function.api_name == "write"}
        *_, (plain, _, summary, *_) = write(*asked(strength=3.0, window=(0, 0, "thinking")))
        (row,) = generate(lm, [Chat.of_user("It was")], config=GenerationConfig(1, 6, SamplingConfig(temperature=0)))
    finally:
        service.engine.close()
    assert words(plain) == f"It was\n\n{row.text}".strip()
    assert "+3@thinking: acted on 6 of 6 tokens" in summary


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
        ("write", asked(""), "the prompt is empty"),
        ("write", asked(strength=3.0, window=(5, 2, "flat")), "holds no token"),
        ("write", asked(strength=3.0, window=(2, 0, "rise")), "has no end"),
        ("write", asked(window=(2, 0, "answer")), "takes no range of tokens"),
        ("write", asked(strength=3.0, hold=("style", 0.8, 0)), "it is held and has a strength as well"),
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
