"""The web page of a server: prompts under a slider for each steer, texts read, steers looked into.

What it asks goes through the same service as requests do, with the same limits.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from lmsteer.errors import LMSteerError
from lmsteer.reading.html import page
from lmsteer.reading.plot import map_of
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.schema import AnalyseRequest, CompletionRequest
from lmsteer.serving.http.service import Choice, Job, Service
from lmsteer.steer.card import Card
from lmsteer.steer.mix import Mix
from lmsteer.util.figures import render_figure

# Where a card knows no safe range.
_RANGE = (-5.0, 5.0)
# In links, before a steer's name.
_OF_STEER = "steer."
# Of each kind of work, by all pages together: each takes a thread while it goes on.
_AT_ONCE = 8
_STEP = 0.25
# Of several, the one that a newcomer sees first.
_FIRST = "sentiment"
_PROMPT, _GRID = "The movie was", "-4, -2, 0, 2, 4"
_TEXT = "The plot is thin and the ending is a mess, but I loved every minute of it."
# Fonts that are on every machine: the page asks nothing of any other.
THEME = gr.themes.Base(primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.map svg { width: 100%; height: auto; }
.reading { width: 100%; height: 34rem; border: 0; }
.lines { width: 100%; border-collapse: collapse; border: 0 !important; }
.lines td, .lines th { border: 0 !important; border-bottom: 1px solid #e5e7eb !important; text-align: left;
  vertical-align: top; padding: .5rem .9rem .5rem 0 !important; overflow-wrap: anywhere; }
.lines th, .lines td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums; }
"""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#1f7a5a"/>'
    '<path d="M8 8 12 4" stroke="#fff" stroke-width="2" stroke-linecap="round"/></svg>'
)
_LINK = "(...state) => { const link = state.pop(); if (link) history.replaceState(null, '', link); }"


@dataclass(frozen=True)
class Field:
    """A part of the page's state, which a link restores.

    Attributes:
        name: in the link.
        component: on the page.
        read: from the link's text.
    """

    name: str
    component: Any
    read: Callable[[str], Any] = field(default=float)


def web_page(service: Service) -> gr.Blocks:
    """The page, with a slider for each steer that there is now."""
    cards = {name: service.shelf.find(name).card for name in service.shelf.names()}
    with gr.Blocks(title=f"lmsteer: {service.name}", analytics_enabled=False) as blocks:
        gr.Markdown(f"## {service.name} under a dial\nThe same seed on both sides: what differs is what the steers do.")
        with gr.Tab("Write"):
            _write_tab(blocks, service, cards)
        if cards:
            with gr.Tab("Compare"):
                _compare_tab(service, [*cards])
            with gr.Tab("Read"):
                _read_tab(service, [*cards])
            with gr.Tab("Words"):
                _lens_tab(service, [*cards])
    return blocks


def _write_tab(blocks: gr.Blocks, service: Service, cards: dict[str, Card]) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            prompt = gr.Textbox(_PROMPT, label="Prompt", lines=3, elem_id="prompt")
            button = gr.Button("Write", variant="primary", elem_id="write")
            sliders = [_slider(name, card) for name, card in cards.items()]
            with gr.Accordion("How it is drawn", open=False):
                tokens = gr.Slider(1, 200, 40, step=1, label="Tokens", elem_id="tokens")
                temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature; 0 takes the likeliest token")
                seed = gr.Number(0, label="Seed", precision=0)
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                plain = gr.Textbox(label="Unsteered", lines=9, interactive=False, elem_id="plain")
                steered = gr.Textbox(label="Steered", lines=9, interactive=False, elem_id="steered")
            acted = gr.Markdown(elem_id="acted")
    state = [
        Field("prompt", prompt, str),
        Field("tokens", tokens, int),
        Field("temperature", temperature),
        Field("seed", seed, int),
        *(Field(_OF_STEER + name, slider) for name, slider in zip(cards, sliders, strict=True)),
    ]
    inputs = [each.component for each in state]
    link = gr.Textbox(visible="hidden")

    def write(*values: Any) -> Iterator[tuple[str, str, str, str]]:
        yield from _side_by_side(service, dict(zip([each.name for each in state], values, strict=True)))

    def restored(request: gr.Request) -> list[Any]:
        return [_from_link(each, dict(request.query_params)) for each in state]

    outputs = [plain, steered, acted, link]
    turned = [button.click, prompt.submit, *(slider.release for slider in sliders)]
    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": _AT_ONCE}
    gr.on(turned, write, inputs, outputs, trigger_mode="always_last", api_name="write", **options).then(
        None, [link], None, js=_LINK
    )
    blocks.load(restored, None, inputs, show_progress="hidden").then(write, inputs, outputs, **options)


def _side_by_side(service: Service, state: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Unsteered and steered text as they grow, which steers acted, and the link of the state."""
    named = {key.removeprefix(_OF_STEER): value for key, value in state.items() if key.startswith(_OF_STEER)}
    strengths = {name: float(strength) for name, strength in named.items() if strength}
    jobs = [_job(service, state, {}), _job(service, state, strengths)]
    link = "?" + urlencode(state)
    for choices in _growing(service, jobs):
        plain, steered = choices
        acting = ", ".join(f"**{name}** {strength:+g}" for name, strength in strengths.items()) or "no steer"
        told = f"{acting}: acted on {steered.steered} of {steered.tokens} tokens"
        warnings = "".join(f"\n\n{warning}" for warning in jobs[1].dial.warnings)
        yield state["prompt"] + plain.text, state["prompt"] + steered.text, told + warnings, link


def _compare_tab(service: Service, names: Sequence[str]) -> None:
    prompt = gr.Textbox(_PROMPT, label="Prompt", lines=2)
    with gr.Row():
        steer = gr.Dropdown(list(names), label="Steer", value=_first(names))
        grid = gr.Textbox(_GRID, label="Strengths")
        samples = gr.Slider(1, 4, 2, step=1, label="Samples of each")
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    table = gr.HTML(elem_id="grid")

    def compare(prompt: str, steer: str, grid: str, samples: int) -> Iterator[str]:
        try:
            strengths = [float(each) for each in grid.split(",")]
        except ValueError as error:
            raise _refusal(f"cannot read {grid!r}: write numbers, like {_GRID}.") from error
        if len(strengths) * int(samples) > service.rules.rows:
            raise _refusal(f"a grid has {service.rules.rows} texts at most.")
        jobs = [
            _job(service, {"prompt": prompt, "seed": seed}, {steer: strength})
            for strength in strengths
            for seed in range(int(samples))
        ]
        labels = [f"{strength:+g}" for strength in strengths for _ in range(int(samples))]
        for choices in _growing(service, jobs):
            texts = [prompt + choice.text for choice in choices]
            yield _table(["strength", "text"], [*zip(labels, texts, strict=True)])

    inputs = [prompt, steer, grid, samples]
    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": _AT_ONCE}
    button.click(compare, inputs, table, trigger_mode="always_last", api_name="compare", **options)


def _read_tab(service: Service, names: Sequence[str]) -> None:
    text = gr.Textbox(_TEXT, label="Text", lines=4, elem_id="text")
    steers = gr.Dropdown(list(names), label="Steers", value=[_first(names)], multiselect=True)
    button = gr.Button("Read", variant="primary", elem_id="read")
    shown = gr.HTML(elem_id="reading")

    def read(text: str, steers: list[str]) -> str:
        reading = service.read(AnalyseRequest(texts=[text], steers=steers))
        shown = page([each.result() for each in reading], {name: service.shelf.find(name) for name in steers})
        return f'<iframe class="reading" title="reading" srcdoc="{html.escape(shown)}"></iframe>'

    button.click(_told(read), [text, steers], shown, concurrency_limit=_AT_ONCE, api_name="read")


def _lens_tab(service: Service, names: Sequence[str]) -> None:
    steer = gr.Dropdown(list(names), label="Steer", value=_first(names))
    button = gr.Button("Look", variant="primary", elem_id="look")
    words = gr.HTML(elem_id="words")
    picture = gr.HTML(elem_classes="map", elem_id="map")

    def look(steer: str) -> tuple[str, str]:
        mix = Mix({steer: service.shelf.find(steer)}, {steer: 1.0})
        components = service.engine.call(lambda: components(service.lm, mix)).result()
        ends = [[", ".join(word.text for word in end) for end in (c.upper, c.lower)] for c in components]
        svg = render_figure(map_of(components)).decode() if len(components) > 1 else ""
        lines = [[f"{c.share:.0%}", *each] for c, each in zip(components, ends, strict=True)]
        return _table(["share", "more at positive strengths", "less"], lines), svg[svg.find("<svg") :]

    button.click(_told(look), steer, [words, picture], concurrency_limit=_AT_ONCE, api_name="look")


def _first(names: Sequence[str]) -> str:
    return _FIRST if _FIRST in names else names[0]


def _slider(name: str, card: Card) -> gr.Slider:
    """Over the safe range and half as much again, so that what lies beyond can be seen."""
    low, high = card.safe_range or _RANGE
    found = f"safe from {low:+.3g} to {high:+.3g}" if card.safe_range else "safe range not known"
    said = f"{card.label}; {found}" if card.label else found
    least, most = (_STEP * round(1.5 * end / _STEP) for end in (low, high))
    return gr.Slider(least, most, 0, step=_STEP, label=name, info=said, elem_id=f"steer-{name}")


def _job(service: Service, state: dict[str, Any], strengths: dict[str, float]) -> Job:
    try:
        request = CompletionRequest(
            prompt=state["prompt"],
            max_tokens=int(state.get("tokens", 30)),
            temperature=float(state.get("temperature", 0.8)),
            top_p=0.9,
            seed=int(state.get("seed") or 0),  # None where the box is empty
            steers=dict(strengths),
        )
        return service.completion(request)
    except (LMSteerError, ValueError) as error:
        raise _refusal(str(error)) from error


def _growing(service: Service, jobs: Sequence[Job]) -> Iterator[list[Choice]]:
    """The rows of some jobs as they grow; they are written no further when the page goes away."""
    orders = [order for job in jobs for order in job.orders]
    choices, pieces = [Choice() for _ in orders], SimpleQueue[tuple[int, Chunk]]()
    try:
        rows = service.engine.submit(orders, lambda place, piece: pieces.put((place, piece)))
    except LMSteerError as error:
        raise _refusal(str(error)) from error
    try:
        while not all(choice.finish for choice in choices):
            place, piece = pieces.get()
            if piece.error is not None:
                raise _refusal(str(piece.error))
            choices[place].add(piece)
            if pieces.empty():
                yield choices
    finally:
        for row in rows:
            row.cancel()


def _told(act: Callable[..., Any]) -> Callable[..., Any]:
    """The same, whose refusals the page shows."""

    def wrapped(*values: Any) -> Any:
        try:
            return act(*values)
        except (LMSteerError, ValueError) as error:
            raise _refusal(str(error)) from error

    return wrapped


def _refusal(message: str) -> gr.Error:
    """What the page shows where something cannot be done; no fault of the server's, and nothing for its log."""
    return gr.Error(message, print_exception=False)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """As HTML; texts are shown as they are."""
    rows = [[f"<th>{html.escape(head)}</th>" for head in heads]]
    rows += [[f"<td>{html.escape(cell)}</td>" for cell in line] for line in lines]
    return '<table class="lines">' + "".join(f"<tr>{''.join(row)}</tr>" for row in rows) + "</table>"


def _from_link(each: Field, query: dict[str, str]) -> Any:
    """A value of a link, or what stands on the page if the link has none, or none that can be read."""
    try:
        return each.read(query[each.name])
    except (KeyError, ValueError):
        return each.component.value
