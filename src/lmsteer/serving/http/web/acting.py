"""The controls for where the steers of the page act, and for a reading that is held at a level.

They make the notations that requests have: ``3@10..40``, ``3@rise..40``, ``3@answer``, ``0.8@max4@10..``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from lmsteer.errors import DataError, SteerError
from lmsteer.model.lm import LM
from lmsteer.model.thinking import thinking_of
from lmsteer.serving.http.web.client import page_error
from lmsteer.serving.http.web.links import StateField, choice
from lmsteer.steer.card import Card
from lmsteer.steer.strength import Hold, number

# In place of a steer: nothing is held.
NOT_HELD = "none"
_LEVEL = 0.8
_SHAPES = [("the whole strength", "flat"), ("rises from 0 to it", "rise"), ("falls from it to 0", "fall")]
_PARTS = [
    ("the whole strength, only in a chat's answer", "answer"),
    ("the whole strength, only in a chat's thinking part", "thinking"),
]


def acting_controls(lm: LM, cards: Mapping[str, Card]) -> list[StateField]:
    """The controls, folded away; at first the steers act on all tokens, and nothing is held."""
    with gr.Accordion("Where the steers act", open=False, elem_id="where"):
        where = _where(lm)
    with gr.Accordion("Hold a reading", open=False, elem_id="holding"):
        return [*where, *_held(cards)]


def _where(lm: LM) -> list[StateField]:
    """The tokens of the new text on which the steers act."""
    with gr.Row():
        first = gr.Number(0, label="From token", info="0 is the first one", precision=0, minimum=0, min_width=90)
        end = gr.Number(0, label="Before token", info="0 is up to the end", precision=0, minimum=0, min_width=90)
    shapes = [*_SHAPES, *(_PARTS if _has_thinking(lm) else ())]
    shape = gr.Dropdown(shapes, value="flat", label="Strength there")
    return [
        StateField("from", first, int),
        StateField("before", end, int),
        StateField("shape", shape, choice([value for _, value in shapes])),
    ]


def _held(cards: Mapping[str, Card]) -> list[StateField]:
    """The steer whose reading is held, and at which level."""
    names = [NOT_HELD, *(name for name, card in cards.items() if _can_be_held(card))]
    hold = gr.Dropdown(
        names,
        value=NOT_HELD,
        label="Steer",
        info="It reads the new text, and before each word gets the strength that the level lacks. Its slider stays at "
        "0.",
    )
    with gr.Row():
        level = gr.Number(_LEVEL, label="Level", info="from 0 to 1", step=0.05, min_width=90)
        most = gr.Number(0, label="Largest strength", info="0 is the safe range", minimum=0, min_width=90)
    return [StateField("hold", hold, choice(names)), StateField("level", level), StateField("most", most)]


def is_chat(state: Mapping[str, Any]) -> bool:
    """Whether the prompt is a message of a chat: the parts in which the steers may act are those of its answer."""
    return state["shape"] in [value for _, value in _PARTS]


def steers_and_hold(state: Mapping[str, Any], strengths: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """The fields ``steers`` and ``hold`` of a request.

    Args:
        state: the values of the controls by name.
        strengths: the strength of each slider that does not stand at 0.

    Raises:
        gr.Error: a part of a chat's answer and a range of tokens are both chosen.
    """
    window = _window(int(state["from"] or 0), int(state["before"] or 0), state["shape"])  # an empty box has None
    hold = {}
    if state["hold"] != NOT_HELD:
        most = f"@max{number(state['most'])}" if state["most"] else ""
        hold[state["hold"]] = f"{number(state['level'] or 0)}{most}{window}"
    return {"steers": {name: f"{number(each)}{window}" for name, each in strengths.items()}, "hold": hold}


def _window(first: int, end: int, shape: str) -> str:
    """The notation of a window, with its sign; empty for all tokens."""
    if shape in [value for _, value in _PARTS]:
        if first or end:
            raise page_error("a part of a chat's answer takes no range of tokens: set both tokens to 0.")
        return f"@{shape}"
    if shape == "flat":
        return f"@{first}..{end or ''}" if first or end else ""
    return f"@{shape}{first or ''}..{end or ''}"


def _has_thinking(lm: LM) -> bool:
    try:
        thinking_of(lm)
    except DataError:
        return False
    return True


def _can_be_held(card: Card) -> bool:
    try:
        Hold(_LEVEL).evidence(card)
    except SteerError:
        return False
    return True
