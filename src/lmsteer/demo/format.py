"""How the demo writes strengths and shares."""

from __future__ import annotations

import math


def signed(strength: float) -> str:
    """A strength with its sign; 0 has none."""
    return f"{strength:+g}" if strength else "0"


def percent(share: float) -> str:
    """A share as a percentage; a dash where the scorer decided on no text."""
    return "–" if math.isnan(share) else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
