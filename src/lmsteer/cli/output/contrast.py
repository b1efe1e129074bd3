"""How a fit from descriptions is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from lmsteer.cli.output.common import plain

if TYPE_CHECKING:
    from lmsteer.fitting.contrast.fit import ContrastFit

_SHOWN = 160


def print_contrast(out: Console, fitted: ContrastFit) -> None:
    """The texts that the model wrote, how far apart its two ends are, and where the steer is."""
    for end, sample in zip(("+", "-"), fitted.samples, strict=True):
        out.print(f"  {end} {plain(sample[:_SHOWN])}", highlight=False, soft_wrap=True)
    out.print(
        f"Under the two descriptions the predictions differ by {fitted.imitation.between:.3f} nats a token. "
        f"Strength 1 closes {fitted.imitation.share:.0%} of what the instructions change.",
        markup=False,
    )
    name, folder = fitted.steer.card.name, fitted.folder
    out.print(f"Steer {name} of {fitted.steer.size} saved to {folder}.", markup=False, soft_wrap=True)
