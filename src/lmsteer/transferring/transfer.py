"""transfer: make a steer of one model from a steer of another, whose tokenizer may differ; no labelled text is needed.

The unit of strength is carried over by cost: at strength 1 the new steer costs the target half as many nats, by the
target's Fisher matrix, as the steer costs the source, because about half of its effect is preserved. If there are a few
labelled texts, they choose the units instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText, check_labelled
from lmsteer.data.starter import DIMENSIONS, starter_texts
from lmsteer.errors import DataError, SteerError
from lmsteer.fitting.eos_component import eos_direction
from lmsteer.fitting.scale import best_scales, largest_scale
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.reading.encode import end_tokens
from lmsteer.reading.encode_labelled import encode_readable
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.reading.splits import halves
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.transferring.alignment import AlignedStates, align_states
from lmsteer.transferring.maps import WORD_MAPS, WordMap, map_eos_reader, map_reader, map_writer
from lmsteer.transferring.shared_vocabulary import SharedVocabulary, find_shared_vocabulary
from lmsteer.util.progress import Progress, no_progress

# What the steer may cost the target, as a share of what it costs its own base.
_COST_SHARE = 0.5
# The fewest ends of texts from which the reader of ends is mapped.
_FEWEST_ENDS = 20
# The weight of a word is its frequency to this power (docs/log.md, "Transfer").
_POWER = 0.5


def transfer(
    source: LM,
    steer: Steer,
    target: LM,
    *,
    texts: Sequence[str] = (),
    labelled: Sequence[LabelledText] = (),
    word_map: WordMap = "gradient",
    power: float = _POWER,
    progress: Progress = no_progress,
) -> Steer:
    """Transfer a steer to another model.

    Args:
        source: the steer's base.
        steer: a steer of form multiply or add.
        target: the model to transfer it to.
        texts: texts of any style, which both models read; the starter texts if there are none.
        labelled: a few labelled texts of both ends, or none. Half of them choose the units of strength, and the steer
            is measured on the other half. A steer of form add has no unit to choose and is measured on all of them.
        word_map: the map of words (see ``maps``).
        power: the weight of a word is its frequency to this power.
        progress: reports how many texts are read.

    Returns:
        The steer of the target. Its card says where it comes from, and has metrics if there are labelled texts.

    Raises:
        WrongBaseError: the steer belongs to another model than ``source``.
        SteerError: a steer of form offset, or that acts inside the model, or of which nothing is left on the target.
        DataError: an unknown map, or texts that cannot be read.
        ModelError: no words in common, or a tokenizer that cannot tell which characters its tokens cover.
    """
    steer.card.check_base(source)
    steer.check_head_alone("a transfer")
    if word_map not in WORD_MAPS:
        raise DataError(f"the map of words must be one of {', '.join(WORD_MAPS)}, not {word_map!r}.")
    labelled = list({text.digest: text for text in labelled}.values())  # else it could choose units and be measured on
    if labelled:
        check_labelled(labelled, "the labelled data")
    if steer.form == "offset":
        raise SteerError("a steer of form offset moves single words and cannot be transferred; fit a new one.")
    texts = texts or [text.text for dimension in DIMENSIONS for text in starter_texts(dimension)]
    models = _ModelPair.of(source, target, texts, power, progress)
    factors = models.transfer(steer, word_map)
    vocabulary, hidden_size = target.head.weight.shape
    card = _card(steer.card, models, word_map, power)
    transferred = Steer(steer.form, factors, hidden_size, vocabulary, card)
    return _measured(target, transferred, labelled) if labelled else transferred


@dataclass(frozen=True)
class _ModelPair:
    """Two models and what is known of how they correspond.

    Attributes:
        source: the model that steers come from.
        target: the model that they go to.
        source_fisher: Fisher factors of the source.
        target_fisher: Fisher factors of the target.
        states: aligned states of both.
        words: words that both have.
    """

    source: LM
    target: LM
    source_fisher: FisherFactors
    target_fisher: FisherFactors
    states: AlignedStates
    words: SharedVocabulary

    @classmethod
    def of(cls, source: LM, target: LM, texts: Sequence[str], power: float, progress: Progress) -> _ModelPair:
        """Measure how two models correspond, on texts."""
        source_fisher, target_fisher = fisher_factors(source), fisher_factors(target)
        states = align_states(source, target, texts, progress=progress)
        words = find_shared_vocabulary(source, target, states, power)
        return cls(source, target, source_fisher, target_fisher, states, words)

    def transfer(self, steer: Steer, word_map: WordMap) -> dict[str, Tensor]:
        """The factors of a steer on the target, float32: mapped reader, writer (scaled by cost) and eos component.

        Raises:
            SteerError: nothing is left of the steer.
        """
        factors = {name: factor.double() for name, factor in steer.factors.items()}
        a, b = (factors["A"], factors["B"]) if steer.form == "multiply" else (None, factors["a"][:, None])
        mapped_a = None if a is None else map_reader(self.states, a)
        mapped_b = map_writer(word_map, self.words, self.source_fisher, self.target_fisher, b)
        cost, mapped_cost = _cost(self.source_fisher, a, b), _cost(self.target_fisher, mapped_a, mapped_b)
        if not mapped_cost > 0:
            raise SteerError(f"nothing of steer {steer.card.name!r} is left on {self.target.name}.")
        mapped_b = mapped_b * (_COST_SHARE * cost / mapped_cost) ** 0.5
        if mapped_a is None:
            mapped = {"a": mapped_b.squeeze(1)}
        else:
            mapped = {"B": mapped_b, "A": mapped_a, **self._eos_factors(factors)}
        return {name: factor.float().contiguous() for name, factor in mapped.items()}

    def _eos_factors(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The eos component: its readers are mapped, its direction is the target's own, as strong as in the source."""
        states = self.states
        if "A_eos" not in factors or self.target.end_id is None or len(states.target_ends) < _FEWEST_ENDS:
            return {}
        u = eos_direction(self.target_fisher, _mean_eos_residual(self.target, states.target_ends))
        # Each column of B_eos was a direction u of unit effect on the mean residual, times a strength.
        strengths = factors["B_eos"].T @ _mean_eos_residual(self.source, states.source_ends)
        return {"A_eos": map_eos_reader(states, factors["A_eos"]), "B_eos": u[:, None] * strengths}


def _cost(fisher: FisherFactors, a: Tensor | None, b: Tensor) -> float:
    """Twice the nats that ``W = A Bᵀ``, or a shift by b (d, 1), costs at strength 1, to second order."""
    return float((b.T @ fisher.f @ b).sum()) if a is None else fisher.inner((a, b), (a, b))


def _mean_eos_residual(lm: LM, ends: Tensor) -> Tensor:
    """Mean residual (d,) of the end-of-text token after the states at the ends of texts, float64 on the CPU."""
    (end,) = end_tokens(lm)
    tokens = torch.full((len(ends),), end, device=lm.device)
    r, _ = lm.head.residuals(ends.to(lm.device), tokens)
    return r.cpu().double().mean(0)  # on the CPU, because MPS has no float64


def _card(card: Card, models: _ModelPair, word_map: WordMap, power: float) -> Card:
    """The card of the transferred steer: the same meaning, another base and another fit."""
    origin = {"origin": card.origin} if card.origin else {}
    fit = {
        "method": "transfer",
        "from": {"base": card.base, "fingerprint": card.base_fingerprint, "fit": card.fit, **origin},
        "map": word_map,
        "power": power,
        "pairs": models.states.count,
        "shared_words": len(models.words.weights),
        "shared_frequency": round(models.words.frequency, 4),
    }
    return models.target.card(card.name, label=card.label, data=card.data, fit=fit)


def _measured(target: LM, steer: Steer, labelled: Sequence[LabelledText]) -> Steer:
    """The steer with units of strength that half of the labelled texts choose, and with metrics on the other half.

    A steer of form add has no unit to choose: it is measured on all texts.
    """
    if steer.form == "add":
        return _with_metrics(target, steer, sorted(labelled, key=lambda text: text.digest))
    chosen, others = halves(labelled)
    rows = _rows(target, chosen)
    inside, ends = rows[~rows.is_end], rows[rows.is_end]
    factors = dict(steer.factors)
    if len(inside):
        factors["B"] = factors["B"] * largest_scale(target.head, inside, factors["A"], factors["B"])
    if "A_eos" in factors and len(ends):
        [(scale, _)] = best_scales(target.head, ends, [(factors["A_eos"], factors["B_eos"])])
        factors["A_eos"] = factors["A_eos"] * scale
    return _with_metrics(target, replace(steer, factors=factors), others)


def _with_metrics(target: LM, steer: Steer, labelled: Sequence[LabelledText]) -> Steer:
    metrics = measure_held_out(target, _rows(target, labelled), steer)
    return replace(steer, card=replace(steer.card, held_out=metrics.to_json()))


def _rows(lm: LM, labelled: Sequence[LabelledText]) -> LabelledRows:
    return LabelledRows.join(list(gather_rows(lm, *encode_readable(lm, labelled))))
