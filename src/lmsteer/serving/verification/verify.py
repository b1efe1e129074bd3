"""Proves with numbers that a steer acts in another engine as on the local model, and on no request but its own.

The engine continues a few prompts, always with the likeliest token, and tells the log-probabilities of the likeliest
tokens at each place. The local model reads the same tokens: the hidden states of its one pass foretell what each
strength does to these log-probabilities, which no engine says of itself.

All differences are root mean squares over the log-probabilities of a request, as parts of the **foretold shift**: what
the steer does to log-probabilities on the local model. So 1 means that an engine ignores a strength, and 0.05 that what
acts is a twentieth off. A twentieth is allowed, and twice what engine and local model differ by without a steer. That
is the rounding of other products and dtypes, or the quantisation of one of the two; both are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from threading import Barrier
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import SteerError
from lmsteer.model.batching import pad
from lmsteer.model.fingerprints import tensors_fingerprint
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode
from lmsteer.reading.explicit import TEXTS
from lmsteer.reading.likelihood import next_token_log_likelihoods
from lmsteer.reading.verify import Check
from lmsteer.serving.verification.client import ServerError
from lmsteer.serving.verification.engine import Engine, Program, Written
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer

# Number of tokens that the engine writes for each request: requests that come at once are in the same batch.
_TOKENS = 16
# The part of the shift that may be missing. Rounding to sixteen bits moves the effect of a steer by less than a
# hundredth of it; the smallest mistakes that there are (another strength, a neighbour's) move it by more than this.
_TOLERANCE = 0.05
# Beyond this, differences say nothing: an engine that ignores strengths differs by 1, one that halves them by a half.
_MOST = 0.25
# Nats by which log-probabilities of one model differ at most, before and after it is quantised to four bits.
_SAME_MODEL = 0.5


@dataclass(frozen=True)
class EngineVerification:
    """How a steer acts in another engine.

    Attributes:
        address: where the engine runs: a URL, or this process.
        program: which program it is.
        engine_version: its version; None if it does not say.
        served_model: what it calls its model.
        steer: the steer's name there.
        steer_fingerprint: the fingerprint of the factors of the steer here.
        base: the name of the steer's base.
        base_fingerprint: the fingerprint of its weights.
        local_model: the model here, which foretells.
        strength: the strength at which the steer was measured, and its opposite.
        shift: the foretold shift in nats, the root mean square.
        noise: what log-probabilities differ by without a steer, between engine and local model or alone and at once,
            in nats.
        log_probabilities: the number of log-probabilities that were compared with the local model's.
        checks: the checks.
        lmsteer_version: the version of lmsteer that has measured.
    """

    address: str
    program: Program
    engine_version: str | None
    served_model: str
    steer: str
    steer_fingerprint: str
    base: str
    base_fingerprint: str
    local_model: str
    strength: float
    shift: float
    noise: float
    log_probabilities: int
    checks: list[Check]
    lmsteer_version: str = field(default_factory=lambda: version("lmsteer"))

    @property
    def acts(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """All of it and the verdict, as a JSON object."""
        return {**asdict(self), "acts": self.acts}


class _Asked(NamedTuple):
    """A request: the number of its prompt, and the steer's strength; None for a request that names no steer."""

    prompt: int
    strength: float | None


@dataclass(frozen=True)
class _Asker:
    """Asks an engine for continuations of some prompts (token ids) with one steer."""

    engine: Engine
    steer: str
    prompts: Sequence[Sequence[int]]

    def requests(self, strength: float | None) -> list[_Asked]:
        """A request for each prompt."""
        return [_Asked(prompt, strength) for prompt in range(len(self.prompts))]

    def alone(self, asked: _Asked) -> Written:
        """The answer to one request."""
        return self.engine.complete(self.prompts[asked.prompt], _TOKENS, self.steer, asked.strength)

    def at_once(self, requests: Sequence[_Asked]) -> list[Written]:
        """The answers to requests that are sent at the same moment."""
        barrier = Barrier(len(requests))

        def answer(asked: _Asked) -> Written:
            barrier.wait()
            return self.alone(asked)

        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(answer, requests))


class _Read(NamedTuple):
    """Log-probabilities (N,) of the tokens of an answer: the engine's, and those that the local model foretells.

    Attributes:
        found: those of the engine.
        unsteered: those without the steer.
        steered: those at the strength of the request, or at the verified strength if it names no steer.
        places: the place of each token in the answer.
    """

    found: Tensor
    unsteered: Tensor
    steered: Tensor
    places: Tensor

    @property
    def shift(self) -> Tensor:
        """What the steer does."""
        return self.steered - self.unsteered

    @property
    def error(self) -> float:
        """How far the engine is from what is foretold, in nats."""
        return _size(self.found - self.steered)


def verify_engine(engine: Engine, name: str, lm: LM, steer: Steer, strength: float = 1.0) -> EngineVerification:
    """Measure how a steer acts in another engine.

    Args:
        engine: the engine.
        name: the steer's name there.
        lm: the model that the engine runs, or a kin of it.
        steer: the steer.
        strength: the strength at which it is measured, and its opposite.

    Raises:
        ServerError: the engine fails, or runs another model.
        WrongBaseError: the local model is neither the steer's base nor a kin of it.
        SteerError: the strength is so small that the steer hardly does more than rounding.
    """
    steer.card.check_base(lm)
    asker = _Asker(engine, name, [ids or [lm.start_id] for ids in encode(lm, TEXTS, start=False, end=False)])
    plain, zero, up, down = (asker.requests(at) for at in (None, 0.0, strength, -strength))
    every, at_rest = [*plain, *zero, *up, *down], plain * 4
    alone = {asked: asker.alone(asked) for asked in every}
    together = dict(zip(every, asker.at_once(every), strict=True))
    rounding = max(_distance(alone[asked], found) for asked, found in zip(at_rest, asker.at_once(at_rest), strict=True))
    read = {asked: _read(lm, steer, asker.prompts[asked.prompt], asked, alone[asked], strength) for asked in every}

    shift = _size(torch.cat([read[asked].shift for asked in (*up, *down)]))
    part, difference = _unsteered([read[asked] for asked in plain])
    noise = max(difference, rounding)
    limit = _limit(engine, lm, strength, shift, noise, difference)

    def check(what: str, nats: Iterable[float]) -> Check:
        worst = max(nats) / shift
        return Check(what, worst, limit, worst <= limit)

    def beside(requests: Sequence[_Asked]) -> Iterator[float]:
        return (_distance(alone[asked], together[asked]) for asked in requests)

    checks = [
        Check("1. steer's part where none is named", part, limit, part <= limit),
        check("2. strength 0 = no steer", (_distance(alone[a], alone[b]) for a, b in zip(plain, zero, strict=True))),
        check(f"3. shift at {strength:+g} = foretold", (read[asked].error for asked in up)),
        check(f"3. shift at {-strength:+g} = foretold", (read[asked].error for asked in down)),
        check("4. no steer, beside steered = alone", beside([*plain, *zero])),
        check("4. steered, beside others = alone", beside([*up, *down])),
    ]
    if (refuses := engine.refuses_unknown_steers()) is not None:
        checks.append(Check("5. unknown steers that are answered", float(not refuses), 0.0, refuses))
    compared = sum(len(each.found) for each in read.values())
    which = (engine.address, engine.program, engine.version, engine.model)
    what = (name, tensors_fingerprint(steer.factors), steer.card.base, steer.card.base_fingerprint)
    return EngineVerification(*which, *what, lm.name, strength, shift, noise, compared, checks)


@torch.inference_mode()
def _read(lm: LM, steer: Steer, prompt: Sequence[int], asked: _Asked, written: Written, strength: float) -> _Read:
    """Read on the local model what the engine wrote.

    Raises:
        ServerError: the engine wrote a token that the local model does not have.
    """
    if (largest := max(max(place) for place in written.log_p)) >= lm.codec.rows:
        raise ServerError(
            f"the engine runs another model than {lm.name!r}, which has no token {largest}: name its model with "
            "--model."
        )
    ids, mask = pad([[*prompt, *written.tokens[:-1]]], lm.pad_id, lm.device)
    mixes = [Mix({"": steer}, {"": at}) for at in (0.0, asked.strength or strength)]
    states = [lm.before_head(mix, input_ids=ids, attention_mask=mask)[0, len(prompt) - 1 :] for mix in mixes]
    unsteered, steered = (
        torch.cat([*next_token_log_likelihoods(lm.head, h, mix)]).float().cpu()
        for h, mix in zip(states, mixes, strict=True)
    )
    rows = [row for row, place in enumerate(written.log_p) for _ in place]
    tokens = [token for place in written.log_p for token in place]
    found = torch.tensor([value for place in written.log_p for value in place.values()])
    return _Read(found, unsteered[rows, tokens], steered[rows, tokens], torch.tensor(rows))


def _unsteered(read: Sequence[_Read]) -> tuple[float, float]:
    """How far requests without a steer differ from the local model: the part of the steer's shift in it, and the rest.

    The rest is in nats. What is common to the tokens of a place is left out: the rest of a log-probability is
    proportional to the strength, so that a small one shows as a small part.
    """
    difference = torch.cat([_centred(each.found - each.unsteered, each.places) for each in read])
    shift = torch.cat([_centred(each.shift, each.places) for each in read])
    part = float(difference @ shift / (shift @ shift).clamp(min=1e-30))
    return abs(part), _size(difference - part * shift)


def _limit(engine: Engine, lm: LM, strength: float, shift: float, noise: float, difference: float) -> float:
    """The part of the foretold shift that may be missing.

    Raises:
        ServerError: engine and local model differ so much that they are not the same model.
        SteerError: the shift is so small that the noise could hide it.
    """
    if not difference <= _SAME_MODEL:
        raise ServerError(
            f"the engine at {engine.address} runs another model than {lm.name!r}: without a steer, their "
            f"log-probabilities differ by {difference:.2f} nats, and those of one model by no more than "
            f"{_SAME_MODEL:g}. Name its model with --model."
        )
    limit = _TOLERANCE + 2 * noise / max(shift, 1e-30)
    if limit > _MOST:
        raise SteerError(
            f"at strength {strength:g} the steer moves log-probabilities by {shift:.2g} nats, too little to be "
            f"measured: without a steer, they differ by {noise:.2g} between the engine and {lm.name!r}, or between "
            "requests alone and at once. Choose a greater --strength."
        )
    return limit


def _distance(one: Written, other: Written) -> float:
    """The size of the difference of two answers to one request, in nats.

    Answers are compared as far as the same tokens stand before a place. Where a token is among the likeliest in one of
    them alone, it has at most the log-probability of the last of these in the other.
    """
    differences: list[float] = []
    for token, other_token, a, b in zip(one.tokens, other.tokens, one.log_p, other.log_p, strict=False):
        least = (min(a.values()), min(b.values()))
        differences += [a.get(each, least[0]) - b.get(each, least[1]) for each in a.keys() | b.keys()]
        if token != other_token:
            break
    return _size(torch.tensor(differences))


def _centred(values: Tensor, places: Tensor) -> Tensor:
    """Values (N,) less the mean of those at the same place (N,)."""
    sums = torch.zeros(int(places.max()) + 1).index_add(0, places, values)
    return values - (sums / places.bincount())[places]


def _size(differences: Tensor) -> float:
    """The root mean square."""
    return float(differences.float().square().mean().sqrt())
