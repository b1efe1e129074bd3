"""The layout of the page, and which action follows which button.

Its actions go through the same service as HTTP requests, with the same limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from lmsteer.generation.config import GenerationConfig
from lmsteer.reading.components import components
from lmsteer.reading.html import render_analyses
from lmsteer.reading.plot import plot_components
from lmsteer.serving.http.schema.requests import AnalyseRequest
from lmsteer.serving.http.service import Service
from lmsteer.serving.http.web.assets import asset, render
from lmsteer.serving.http.web.client import (
    CONCURRENCY,
    PROMPT,
    first_steer,
    generate,
    page_error,
    parse,
    shows_errors,
)
from lmsteer.serving.http.web.write import write_tab
from lmsteer.steer.mix import Mix
from lmsteer.util.figures import render_figure

_DEFAULTS = GenerationConfig()
_STRENGTHS = "-3, -1.5, 0, 1.5, 3"
_TEXT = "The plot is thin and the ending is a mess, but I loved every minute of it."
_COMPARE_TOKENS = 30
# Fonts of the reader's own machine: the page loads nothing from other servers.
THEME = gr.themes.Base(primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS, ICON = asset("page.css"), asset("icon.svg")


def web_page(service: Service) -> gr.Blocks:
    """The page of a service, with a slider for each steer that is there now."""
    cards = {name: service.registry.find(name).card for name in service.registry.names()}
    with gr.Blocks(title=f"lmsteer: {service.name}", analytics_enabled=False) as blocks:
        gr.Markdown(
            f"## {service.name} with steers\nBoth texts are drawn with the same seed: only the steers make them differ."
        )
        with gr.Tab("Write"):
            write_tab(blocks, service, cards)
        if cards:
            with gr.Tab("Compare"):
                _compare_tab(service, [*cards])
            with gr.Tab("Read"):
                _read_tab(service, [*cards])
            with gr.Tab("Words"):
                _words_tab(service, [*cards])
    return blocks


def _compare_tab(service: Service, names: Sequence[str]) -> None:
    """A prompt continued at several strengths of one steer."""
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=2)
    with gr.Row():
        steer = gr.Dropdown(list(names), label="Steer", value=first_steer(names))
        grid = gr.Textbox(_STRENGTHS, label="Strengths")
        samples = gr.Slider(1, 4, 2, step=1, label="Samples for each")
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    table = gr.HTML(elem_id="grid")

    def compare(prompt: str, steer: str, grid: str, samples: int) -> Iterator[str]:
        yield from _grid(service, prompt, steer, grid, int(samples))

    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": CONCURRENCY}
    inputs = [prompt, steer, grid, samples]
    button.click(compare, inputs, table, trigger_mode="always_last", api_name="compare", **options)


def _grid(service: Service, prompt: str, steer: str, grid: str, samples: int) -> Iterator[str]:
    """A table of texts, ``samples`` for each of the comma-separated strengths, as they grow."""
    try:
        strengths = [float(each) for each in grid.split(",")]
    except ValueError as error:
        raise page_error(f"cannot parse {grid!r}: write numbers, like {_STRENGTHS}.") from error
    if len(strengths) * samples > service.limits.max_choices:
        raise page_error(f"the table may have at most {service.limits.max_choices} texts.")
    lines = [(strength, seed) for strength in strengths for seed in range(samples)]
    temperature = _DEFAULTS.sampling.temperature
    parsed = [
        parse(service, prompt, {steer: strength}, max_tokens=_COMPARE_TOKENS, temperature=temperature, seed=seed)
        for strength, seed in lines
    ]
    for choices in generate(service, parsed):
        cells = [(f"{strength:+g}", prompt + each.text) for (strength, _), each in zip(lines, choices, strict=True)]
        yield render("table.html", heads=["strength", "text"], lines=cells)


def _read_tab(service: Service, names: Sequence[str]) -> None:
    """A text analysed by steers."""
    text = gr.Textbox(_TEXT, label="Text", lines=4, elem_id="text")
    steers = gr.Dropdown(list(names), label="Steers", value=[first_steer(names)], multiselect=True)
    button = gr.Button("Read", variant="primary", elem_id="read")
    output = gr.HTML(elem_id="reading")

    @shows_errors
    def read(text: str, steers: list[str]) -> str:
        futures = service.analyse(AnalyseRequest(texts=[text], steers=steers))
        document = render_analyses(
            [each.result() for each in futures], {name: service.registry.find(name) for name in steers}
        )
        return render("frame.html", document=document)

    button.click(read, [text, steers], output, concurrency_limit=CONCURRENCY, api_name="read")


def _words_tab(service: Service, names: Sequence[str]) -> None:
    """The words that a steer moves, in a table and on a map."""
    steer = gr.Dropdown(list(names), label="Steer", value=first_steer(names))
    button = gr.Button("Show words", variant="primary", elem_id="look")
    table = gr.HTML(elem_id="words")
    word_map = gr.HTML(elem_classes="map", elem_id="map")

    @shows_errors
    def look(steer: str) -> tuple[str, str]:
        mix = Mix({steer: service.registry.find(steer)}, {steer: 1.0})
        shown = service.engine.call(lambda: components(service.lm, mix)).result()
        ends = [[", ".join(word.text for word in end) for end in (each.upper, each.lower)] for each in shown]
        lines = [[f"{each.share:.0%}", *end] for each, end in zip(shown, ends, strict=True)]
        svg = render_figure(plot_components(shown)).decode() if len(shown) > 1 else ""
        heads = ["share", "more likely at positive strengths", "less likely"]
        return render("table.html", heads=heads, lines=lines), svg[svg.find("<svg") :]

    button.click(look, steer, [table, word_map], concurrency_limit=CONCURRENCY, api_name="words")
