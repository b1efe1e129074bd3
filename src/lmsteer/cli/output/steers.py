"""How steers made of steers, their interference and their safe ranges are printed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.cli.output.common import signed
from lmsteer.evaluation.interference import Interference
from lmsteer.evaluation.safe_range import MAX_STRENGTH, SafeRange
from lmsteer.model.fisher import FisherFactors
from lmsteer.steer.algebra import cosines, overlaps
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer


def transferred(out: Console, moved: Steer, folder: Path) -> None:
    """A steer that was carried over: by what, and what labelled texts say of it."""
    fit, held_out = moved.card.fit, moved.card.held_out
    out.print(
        f"Steer [bold]{escape(moved.card.name)}[/] carried to {escape(moved.card.base)} and saved to "
        f"{escape(str(folder))}: by {fit['pairs']:,} pairs of hidden states and {fit['shared_words']:,} words that "
        f"both models have, {fit['their_frequency']:.0%} of what {escape(fit['from']['base'])} expects.",
        highlight=False,
    )
    if held_out:
        out.print(
            f"On {held_out['texts']} labelled texts: {held_out['log_likelihood_gain']:+.4f} nats a token at their own "
            "label."
        )


def mix_as_json(mix: Mix, fisher: FisherFactors, found: Interference | None) -> dict[str, Any]:
    """A mix for machines: strengths, cosines of its steers in what they do to the model, and measured effects."""
    told: dict[str, Any] = {
        "strengths": {name: round(s, 6) for name, s in zip(mix.steers, mix.strengths[0].tolist(), strict=True)}
    }
    if all(steer.form == "multiply" for steer in mix.steers.values()):
        told["cosines"] = cosines(overlaps([*mix.steers.values()], fisher)).tolist()
    if found is not None:
        alone, mixed, kept, errors = (
            found.alone.tolist(),
            found.mixed.tolist(),
            found.kept.tolist(),
            found.standard_errors,
        )
        told["effects"] = {
            name: {
                "alone": dict(zip(mix.steers, alone[k], strict=True)),
                "in the mix": mixed[k],
                "standard error": float(errors[k]),
                "kept": kept[k],
            }
            for k, name in enumerate(mix.steers)
        }
        told["continuations"] = found.num_texts
    return told


def mix(out: Console, told: dict[str, Any]) -> None:
    """The same as tables."""
    names = list(told["strengths"])
    out.print(" ".join(f"{name}={signed(round(s, 3))}" for name, s in told["strengths"].items()), markup=False)
    if "cosines" in told:
        table = Table("", *map(escape, names), title="how alike they are (cosine, in nats)", title_justify="left")
        for name, row in zip(names, told["cosines"], strict=True):
            table.add_row(escape(name), *(f"{cosine:+.2f}" for cosine in row))
        out.print(table)
    if "effects" in told:
        title = f"what each does to each dimension, in nats of evidence ({told['continuations']} continuations)"
        table = Table("", *map(escape, names), title=title, title_justify="left")
        for name, effect in told["effects"].items():
            table.add_row(f"{escape(name)} alone", *(f"{value:+.2f}" for value in effect["alone"].values()))
        effects = told["effects"].values()
        table.add_section()
        table.add_row("the mix", *(f"{e['in the mix']:+.2f} ± {e['standard error']:.2f}" for e in effects))
        table.add_row("kept of its own", *(f"{e['kept']:.0%}" for e in effects))
        out.print(table)


def safe_range(out: Console, name: str, done: SafeRange) -> None:
    """A safe range: its ends, what was tried, and how to write it."""
    table = Table("strength", "perplexity", "repetition", "level")
    for trial in done.trials:
        shown = "" if math.isnan(trial.score) else f"{trial.score:.3f}"
        table.add_row(signed(trial.strength), f"{trial.perplexity:.1f}", f"{trial.rep_3:.0%}", shown)
    out.print(table)
    out.print(
        f"Safe: from {signed(done.low)} to {signed(done.high)}, kept on the card; {name}=50% is half of it.",
        markup=False,
    )
    if MAX_STRENGTH in (done.high, -done.low):
        out.print(f"No border was found up to a strength of {MAX_STRENGTH:g}.", markup=False, highlight=False)
    if not done.high or not done.low:
        out.print("Not even a small strength is safe on one side: this steer is too strong, or harms text at once.")
    if done.target is not None:
        reached = (
            "no safe strength" if done.target_strength is None else f"{name}=auto, {signed(done.target_strength)},"
        )
        out.print(f"A mean score of {done.target:g} is reached by {reached}.", markup=False, highlight=False)
