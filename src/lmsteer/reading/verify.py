"""verify: proves with numbers that a steer acts on its base, and how much.

It checks four identities:

1. strength 0 gives the base model's logits, bit for bit;
2. the hook, the explicit head ``E (I + s W)ᵀ`` and a LoRA on the head (``Aᵀ``, ``s E B``) give the same logits; so
   does, inside the model, a map ``I + s W`` behind each layer and the weight ``W₀ + s B Aᵀ`` in each linear layer;
3. several steers at once act as their sum does;
4. a steer on one row of a batch leaves every other row unchanged, bit for bit, with padding on either side.

On a kin of its base (the same weights before or after quantisation), it measures how far the two models differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText, texts_fingerprint
from lmsteer.errors import DataError, SteerError, WrongBaseError
from lmsteer.model.lm import LM
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.reading.explicit import (
    Side,
    batch_of,
    by_explicit_head,
    by_explicit_maps,
    by_lora,
    hidden_states,
    logits_of,
    mix_of,
)
from lmsteer.reading.held_out import HeldOutMetrics, measure_texts
from lmsteer.reading.splits import held_out_of
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.records import number_in

_SIDES: tuple[Side, Side] = ("left", "right")
# What rounding may change of the logits, relative to the largest one.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        what: what was compared, in words.
        difference: the difference: of logits the largest one, relative to the largest logit.
        limit: the most that the difference may be; with ``at_least`` it must be more.
        passed: whether the difference keeps to the limit.
        at_least: whether the limit is a lower one.
    """

    what: str
    difference: float
    limit: float
    passed: bool
    at_least: bool = False


@dataclass(frozen=True)
class KinDifference:
    """How far a kin of a steer's base differs from the base, on a few tokens of text.

    Attributes:
        hidden_states: the size of the difference of the hidden states, relative to that of the hidden states.
        divergence: KL(base || kin) of the next token, unsteered, in nats.
        effect: the size of the difference of what the steer does to the logits, relative to what it does on the base.
    """

    hidden_states: float
    divergence: float
    effect: float


@dataclass(frozen=True)
class Verification:
    """The results of all checks, and the metrics on held-out texts.

    Attributes:
        checks: whether the steer changes the logits at all, and the identities.
        held_out: the metrics on held-out texts; None if no texts were given.
        kin: whether the model is a kin of the steer's base, and not the base itself.
        difference: how far that kin differs from the base; None if the base was not given.
    """

    checks: list[Check]
    held_out: HeldOutMetrics | None
    kin: bool = False
    difference: KinDifference | None = None

    @property
    def acts(self) -> bool:
        """Whether all checks passed, and held-out texts, if any, are likelier at the strength of their own label."""
        return all(check.passed for check in self.checks) and (
            self.held_out is None or self.held_out.log_likelihood_gain > 0
        )

    def to_json(self) -> dict[str, Any]:
        """The checks, the metrics of held-out texts and the verdict, as a JSON object."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "held_out": self.held_out.to_json() if self.held_out else None,
            "kin": self.kin,
            "difference": asdict(self.difference) if self.difference else None,
            "acts": self.acts,
        }


@torch.inference_mode()
def verify(
    lm: LM,
    steer: Steer,
    texts: Sequence[LabelledText] = (),
    *,
    fitted_on: bool = False,
    strength: float = 1.0,
    base: LM | None = None,
) -> Verification:
    """Prove a steer on its base, or on a kin of it.

    Args:
        lm: the base model, or a kin of it.
        steer: the steer.
        texts: labelled texts to measure the steer on: the texts that it was fitted on, of which only the held-out ones
            are used, or others, which are all used.
        fitted_on: True if the texts are part of those that the steer was fitted on. If they are all of them, that is
            recognised by their fingerprint.
        strength: the strength at which the identities are checked.
        base: where ``lm`` is a kin, the base itself, to measure how far they differ.

    Raises:
        WrongBaseError: the model is neither the steer's base nor a kin of it, or ``base`` is not the base.
        SteerError: the strength is 0, at which no steer acts.
        DataError: texts were given, but the fit held none of them out.
    """
    if strength == 0:
        raise SteerError("at strength 0 no steer acts: verify it at another strength.")
    steer.card.check_base(lm)
    checks = [
        _acts(lm, steer, strength),
        *_sites_act(lm, steer, strength),
        _exact("1. strength 0 = unsteered, bit for bit", logits_of(lm), logits_of(lm, mix_of(steer, 0.0))),
        _close("2. hook = explicit head E(I + sW)ᵀ", *by_explicit_head(lm, steer, strength)),
        *(
            [_close("2. hook = explicit maps at its sites", *by_explicit_maps(lm, steer, strength))]
            if steer.sites
            else []
        ),
        *([_close("2. hook = LoRA on the head", *by_lora(lm, steer, strength))] if steer.form == "multiply" else []),
        _close("3. several at once = their sum", *_stacked(lm, steer, strength)),
        *(_neighbours(lm, steer, strength, side) for side in _SIDES),
    ]
    kin = steer.card.base_fingerprint != lm.fingerprint
    difference = _difference_of_kin(base, lm, steer, strength) if kin and base is not None else None
    held_out = _measure_held_out(lm, steer, texts, fitted_on) if texts else None
    return Verification(checks, held_out, kin, difference)


def _difference_of_kin(base: LM, kin: LM, steer: Steer, strength: float) -> KinDifference:
    """What differs between a base and its kin.

    Raises:
        WrongBaseError: the base is not the steer's.
    """
    if base.fingerprint != steer.card.base_fingerprint:
        raise WrongBaseError(f"{base.name!r} is not the base of {steer.card.title}, {steer.card.base!r}.")
    logits = [logits_of(lm).float().cpu() for lm in (base, kin)]
    effects = [
        logits_of(lm, mix_of(steer, strength)).float().cpu() - z for lm, z in zip((base, kin), logits, strict=True)
    ]
    p, q = (z.log_softmax(-1) for z in logits)
    states = (hidden_states(lm).float().cpu() for lm in (base, kin))
    return KinDifference(_relative(*states), float((p.exp() * (p - q)).sum(-1).mean()), _relative(*effects))


def _relative(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def _acts(lm: LM, steer: Steer, strength: float) -> Check:
    difference = _difference(logits_of(lm), logits_of(lm, mix_of(steer, strength)))
    return Check(f"the steer changes the logits at strength {strength:g}", difference, 0.0, difference > 0, True)


def _sites_act(lm: LM, steer: Steer, strength: float) -> list[Check]:
    """That the steer acts at each of its sites, where it acts inside the model: the least effect of one of them."""
    if not steer.sites:
        return []
    base, effects = logits_of(lm), dict[str, float]()
    for site in steer.sites:
        effects[site] = _difference(base, logits_of(lm, mix_of(steer.at_sites([site]), strength)))
    least = min(effects, key=lambda site: effects[site])
    what = f"it does so at each of its {len(effects)} sites, the least at {least}"
    return [Check(what, effects[least], 0.0, effects[least] > 0, True)]


def _stacked(lm: LM, steer: Steer, strength: float) -> tuple[Tensor, Tensor]:
    parts = {name: replace(steer, card=replace(steer.card, name=name)) for name in ("a", "b", "c")}
    shares = dict(zip(parts, (0.5 * strength, 0.75 * strength, -0.25 * strength), strict=True))
    return logits_of(lm, Mix(parts, shares)), logits_of(lm, mix_of(steer, strength))


def _neighbours(lm: LM, steer: Steer, strength: float, side: Side) -> Check:
    _, mask = batch_of(lm, side)
    others = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask.bool()] != 1
    mixed = logits_of(lm, mix_of(steer, [0.0, strength, 0.0]), side)
    base = logits_of(lm, None, side)
    return _exact(f"4. neighbours of a steered row, padded on the {side}", base[others], mixed[others])


def _measure_held_out(lm: LM, steer: Steer, texts: Sequence[LabelledText], fitted_on: bool) -> HeldOutMetrics:
    texts, ids = encode_readable(lm, texts, int(number_in(steer.card.fit, "max_tokens") or lm.max_length))
    fitted_on = fitted_on or hex(texts_fingerprint(texts)) == steer.card.data.get("fingerprint")
    if fitted_on and number_in(steer.card.fit, "folds"):
        raise DataError(
            "the fit held none of these texts out, since they are few: the steer's card has cross-validated figures. "
            "Give others to measure it on."
        )
    chosen = held_out_of(texts, ids) if fitted_on else list(range(len(texts)))
    if not chosen:
        raise DataError("the fit held out none of these texts: give others to measure the steer on.")
    return measure_texts(lm, [texts[i] for i in chosen], [ids[i] for i in chosen], steer)


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp(min=1e-30))


def _exact(what: str, a: Tensor, b: Tensor) -> Check:
    return Check(what, _difference(a, b), 0.0, torch.equal(a, b))


def _close(what: str, a: Tensor, b: Tensor) -> Check:
    difference, limit = _difference(a, b), _TOLERANCE.get(a.dtype, 1e-5)
    return Check(what, difference, limit, difference <= limit)
