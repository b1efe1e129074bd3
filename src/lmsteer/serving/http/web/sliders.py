"""The slider of a steer: its range and its step follow from the safe range."""

from __future__ import annotations

import math

import gradio as gr

from lmsteer.steer.card import Card

# For steers without a known safe range.
_DEFAULT_RANGE = (-5.0, 5.0)
# Share of the safe range that the slider covers: the part beyond shows what the limits are for.
_COVER = 1.5
# Steps on the longer side of the safe range, at least.
_STEPS = 20


def slider_range(low: float, high: float) -> tuple[float, float, float]:
    """Minimum, maximum and step of a slider for a safe range.

    The step is 1, 2.5 or 5 times a power of ten, so that there are 20 to 50 steps on the longer side of the safe range.
    Both ends are multiples of it, so that the slider can stand at 0.
    """
    span = max(-low, high, 0.0)
    if not span:
        return slider_range(*_DEFAULT_RANGE)
    power = 10.0 ** math.floor(math.log10(span / _STEPS))
    step = max(nice * power for nice in (1, 2.5, 5) if nice == 1 or nice * power <= span / _STEPS)
    # Steps are not exact in binary: 0.075 / 0.0025 is a little more than 30.
    least, most = (math.ceil(_COVER * max(end, 0) / step - 1e-6) for end in (-low, high))
    least, digits = -least, 1 - math.floor(math.log10(step))
    return round(least * step, digits), round(most * step, digits), round(step, digits)


def steer_slider(name: str, card: Card) -> gr.Slider:
    """The slider for the strength of a steer; it stands at 0."""
    low, high = card.safe_range or _DEFAULT_RANGE
    known = f"safe from {low:+.3g} to {high:+.3g}" if card.safe_range else "safe range not known"
    minimum, maximum, step = slider_range(low, high)
    info = f"{card.label}; {known}" if card.label else known
    return gr.Slider(minimum, maximum, 0, step=step, label=name, info=info, elem_id=f"steer-{name}")
