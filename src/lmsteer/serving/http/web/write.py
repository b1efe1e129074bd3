"""The tab that continues a prompt without and with steers, side by side, each token tinted by what a steer reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from lmsteer.generation.config import GenerationConfig
from lmsteer.model.lm import LM
from lmsteer.serving.http.service import Service
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.web.acting import acting_controls, is_chat, steers_and_hold
from lmsteer.serving.http.web.assets import asset
from lmsteer.serving.http.web.client import CONCURRENCY, PROMPT, first_steer, generate, parse
from lmsteer.serving.http.web.links import StateField, choice, link_to, strengths_in
from lmsteer.serving.http.web.sliders import steer_slider
from lmsteer.serving.http.web.tinted import legend, tinted_text
from lmsteer.steer.card import Card

_DEFAULTS = GenerationConfig()
# In place of a steer: no tint.
_NO_TINT = "none"
_TITLES = ("Unsteered", "Steered")
_Shown = tuple[str, str, str, str, str]


def write_tab(blocks: gr.Blocks, service: Service, cards: Mapping[str, Card]) -> None:
    """A prompt continued without and with steers, side by side."""
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            state, button = _inputs(service.lm, cards)
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                plain, steered = map(_text_box, ("plain", "steered"), _TITLES)
            summary = gr.Markdown(elem_id="acted")
            tint = gr.Dropdown(
                [_NO_TINT, *cards],
                label="Colour the words by what this steer reads in them",
                value=first_steer([*cards]) if cards else _NO_TINT,
                elem_id="tint",
                visible=bool(cards),
            )
            meaning = gr.HTML(elem_id="legend")
    state.append(StateField("tint", tint, choice([_NO_TINT, *cards])))
    inputs = [each.component for each in state]
    link = gr.Textbox(visible="hidden")

    def write(*values: Any) -> Iterator[_Shown]:
        yield from _side_by_side(service, cards, dict(zip([each.name for each in state], values, strict=True)))

    def restore(request: gr.Request) -> list[Any]:
        return [each.restore(dict(request.query_params)) for each in state]

    outputs = [plain, steered, summary, meaning, link]
    sliders = [each for each in inputs if isinstance(each, gr.Slider) and str(each.elem_id).startswith("steer-")]
    triggers = [button.click, inputs[0].submit, tint.input, *(slider.release for slider in sliders)]
    options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": CONCURRENCY}
    gr.on(triggers, write, inputs, outputs, trigger_mode="always_last", api_name="write", **options).then(
        None, [link], None, js=asset("link.js")
    )
    blocks.load(restore, None, inputs, show_progress="hidden").then(write, inputs, outputs, **options)


def _inputs(lm: LM, cards: Mapping[str, Card]) -> tuple[list[StateField], gr.Button]:
    """The inputs, the prompt first, and the button."""
    prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, elem_id="prompt")
    button = gr.Button("Write", variant="primary", elem_id="write")
    sliders = {name: steer_slider(name, card) for name, card in cards.items()}
    with gr.Accordion("Limits of each word", open=False, elem_id="limits"):
        limits = _limits()
    if cards:
        limits += acting_controls(lm, cards)
    with gr.Accordion("Sampling", open=False):
        tokens = gr.Slider(1, 200, _DEFAULTS.max_new_tokens, step=1, label="Tokens", elem_id="tokens")
        temperature = gr.Slider(
            0, 2, _DEFAULTS.sampling.temperature, step=0.05, label="Temperature", info="0 takes the likeliest token"
        )
        seed = gr.Number(0, label="Seed", precision=0)
    state = [
        StateField("prompt", prompt, str),
        StateField("tokens", tokens, int),
        StateField("temperature", temperature),
        StateField("seed", seed, int),
        *limits,
        *(StateField.of_steer(name, slider) for name, slider in sliders.items()),
    ]
    return state, button


def _limits() -> list[StateField]:
    """The limits of a token; 0 is without a limit."""
    gr.Markdown("They keep strong steers from harming the text. 0 is no limit.")
    plausible = gr.Slider(
        0,
        0.5,
        0,
        step=0.01,
        label="Plausible",
        info="Write only words that the unsteered model finds at least this likely, as a share of its likeliest word.",
    )
    fresh = gr.Slider(
        0,
        100,
        0,
        step=5,
        label="Fresh",
        info="The steers do not push words that are among this many last ones: less repetition.",
    )
    kl = gr.Slider(
        0,
        4,
        0,
        step=0.1,
        label="Divergence",
        info="The most that a steer may change the odds of the next word, in nats. Beyond, it is weakened.",
    )
    return [StateField("plausible", plausible), StateField("fresh", fresh, int), StateField("kl", kl)]


def _text_box(name: str, title: str) -> gr.HTML:
    """An empty text, in a column of its own: where the window is narrow, below the other one."""
    with gr.Column(min_width=240):
        return gr.HTML(tinted_text(title, "", Choice(), None), elem_id=name)


def _side_by_side(service: Service, cards: Mapping[str, Card], state: Mapping[str, Any]) -> Iterator[_Shown]:
    """Unsteered and steered text as they grow, a summary of the steers, what the colours mean, and the state's link."""
    prompt, link, chat = state["prompt"], link_to(state), bool(cards) and is_chat(state)
    acting = steers_and_hold(state, strengths_in(state)) if cards else {"steers": {}, "hold": {}}
    tint = None if state["tint"] == _NO_TINT else state["tint"]
    named_steers = {*acting["steers"], *acting["hold"]} | ({tint} if tint else set())
    if inside := [name for name in named_steers if service.registry.find(name).sites]:
        tint = None  # a token's reading needs the unsteered logits, which are not known then
    read: dict[str, float | str] = {} if tint is None else {tint: 0.0}  # at strength 0 it reads and does not steer
    fields: dict[str, Any] = {
        "chat": chat,
        "max_tokens": int(state["tokens"]),
        "temperature": float(state["temperature"]),
        "seed": int(state["seed"] or 0),  # None if the box is empty
        "plausible": float(state["plausible"]),
        "readings": tint is not None,
    }
    of_steers: dict[str, Any] = {}
    if acting["steers"] or acting["hold"]:
        of_steers = {"fresh": int(state["fresh"]), "kl": float(state["kl"]) or None, "hold": acting["hold"]}
    steers = {name: strength for name, strength in read.items() if name not in acting["hold"]} | acting["steers"]
    parsed = [parse(service, prompt, read, **fields), parse(service, prompt, steers, **fields, **of_steers)]
    steering = parsed[1].steering
    named = ", ".join(f"**{name}** {strength:+g}" for name, strength in steering.strengths.items() if strength)
    warnings = "".join(f"\n\n{warning}" for warning in steering.warnings)
    meaning = legend(tint, cards[tint].label) if tint else ""
    if inside:
        meaning = f"No word is coloured: {', '.join(sorted(inside))} acts inside the model, where words are not read."
    shown = f"{prompt}\n\n" if chat else prompt
    for choices in generate(service, parsed):
        texts = [tinted_text(title, shown, choice, tint) for title, choice in zip(_TITLES, choices, strict=True)]
        steered = choices[1]
        summary = f"{named or 'no steer'}: acted on {steered.steered} of {steered.tokens} tokens"
        yield texts[0], texts[1], summary + warnings, meaning, link
