"""How the verification of a steer is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmsteer.util.records import number_in

if TYPE_CHECKING:
    from lmsteer.reading.held_out import HeldOutMetrics
    from lmsteer.reading.verify import Check, KinDifference, Verification
    from lmsteer.serving.verification.verify import EngineVerification
    from lmsteer.steer.card import Card


def print_verification(out: Console, verification: Verification, card: Card, source: str) -> None:
    """The checks as a table, how far a kin of the base differs from it, and what held-out texts show."""
    out.print(_table(verification.checks))
    if verification.kin:
        out.print(_kin_sentence(verification.difference, card.base), markup=False, highlight=False)
    if verification.held_out is None:
        out.print(f"{_why_none(card, source)}No labelled texts were read: give some with --data.")
        return
    out.print(f"{verification.held_out.texts} held-out texts ({escape(source)}): {_sentence(verification.held_out)}")


def print_engine_verification(out: Console, verification: EngineVerification) -> None:
    """What was measured on another engine, in which versions, so that it can be pasted into a report of a fault."""
    found = verification
    where = f"at {found.address}" if "://" in found.address else f"in {found.address}"
    engine = f"{found.program} {found.engine_version or '(version unknown)'} {where}"
    lines = (
        f"engine: {engine}, model {found.served_model!r}",
        f"here:   lmsteer {found.lmsteer_version}, model {found.local_model!r}",
        f"steer:  {found.steer}, fingerprint {found.steer_fingerprint}",
        f"base:   {found.base}, fingerprint {found.base_fingerprint}",
    )
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(_table(found.checks))
    out.print(
        f"Differences are parts of the foretold shift at {found.strength:+g} and {-found.strength:+g}, which is "
        f"{found.shift:.3g} nats (root mean square of {found.log_probabilities} log-probabilities). Without a steer, "
        f"they differ by {found.noise:.2g} nats between the engine and the model here, or alone and at once: rounding, "
        "or quantisation.",
        markup=False,
        highlight=False,
    )


def _table(checks: Sequence[Check]) -> Table:
    table = Table("check", "difference", "must be", "")
    for check in checks:
        table.add_row(check.what, f"{check.difference:.2e}", _bound(check), "ok" if check.passed else "FAILED")
    return table


def _why_none(card: Card, source: str) -> str:
    """Why no text of the fit was read."""
    if "folds" in card.fit:
        return (
            "The fit held no texts out, since they are few. In cross-validation, sign accuracy is "
            f"{number_in(card.held_out, 'sign_accuracy') or 0:.1%}. "
        )
    return f"The texts of the fit ({escape(source)}) are not here. " if source else ""


def _kin_sentence(difference: KinDifference | None, base: str) -> str:
    if difference is None:
        return (
            f"The model is a kin of the steer's base {base!r}: the same tokenizer, and an output embedding that "
            "differs by no more than quantisation does. The base is not on this machine, so nothing else is compared."
        )
    return (
        f"The model is a kin of the steer's base {base!r}: hidden states differ by {difference.hidden_states:.1%}, "
        f"next tokens by {difference.divergence:.4f} nats, and what the steer does by {difference.effect:.1%}."
    )


def _sentence(metrics: HeldOutMetrics) -> str:
    sides = (
        ("positive texts at +1", metrics.log_likelihood_gain_positive),
        ("negative texts at -1", metrics.log_likelihood_gain_negative),
    )
    of_sides = "".join(f"{which} {gain:+.4f}, " for which, gain in sides if not math.isnan(gain))
    whole, inside = map(_accuracy, (metrics.sign_accuracy, metrics.sign_accuracy_without_eos))
    return (
        f"log-likelihood of {of_sides}all texts at their label {metrics.log_likelihood_gain:+.4f} nats a token{whole}. "
        f"Without the end-of-text tokens: {metrics.log_likelihood_gain_without_eos:+.4f} nats a token{inside}."
    )


def _accuracy(accuracy: float) -> str:
    return "" if math.isnan(accuracy) else f", sign accuracy {accuracy:.1%}"


def _bound(check: Check) -> str:
    return "more than 0" if check.at_least else "0" if check.limit == 0 else f"at most {check.limit:.2g}"
