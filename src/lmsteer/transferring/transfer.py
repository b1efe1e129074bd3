"""transfer: a steer of one model as a steer of another, with another tokenizer if need be; no labelled text is needed.

The unit of strength is carried by price: at strength 1 the steer costs the target half as many nats, by its own Fisher
matrix, as it costs the source, for about half of what it does arrives. A few labelled texts, where there are some,
choose the units instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmsteer.data.labelled import LabelledText, check_labelled
from lmsteer.data.starter import DIMENSIONS, starter_texts
from lmsteer.errors import DataError, SteerError
from lmsteer.fitting.eos_component import end_direction
from lmsteer.fitting.scale import best_scales, largest_scale
from lmsteer.generation.unconditional import fisher_factors
from lmsteer.model.fisher import FisherFactors
from lmsteer.model.lm import LM
from lmsteer.reading.encode import encode_readable
from lmsteer.reading.held_out import measure_held_out
from lmsteer.reading.hidden_rows import gather_rows
from lmsteer.reading.rows import LabelledRows
from lmsteer.steer.card import Card
from lmsteer.steer.steer import Steer
from lmsteer.transferring.alignment import AlignedStates, align_states
from lmsteer.transferring.maps import WORD_MAPS, WordMap, map_end_reader, map_reader, map_writer
from lmsteer.transferring.shared_vocabulary import SharedVocabulary, find_shared_vocabulary
from lmsteer.util.progress import Progress, no_progress

# Of what a steer costs its own base, what it may cost the target.
_PRICE = 0.5
# Ends of texts that the reader of ends is carried over by, at least.
_FEWEST_ENDS = 20
# Of the frequency that words are weighed by (docs/log.md, "Transfer").
_POWER = 0.5


def transfer(
    source: LM,
    steer: Steer,
    target: LM,
    *,
    texts: Sequence[str] = (),
    labelled: Sequence[LabelledText] = (),
    how: WordMap = "gradient",
    power: float = _POWER,
    progress: Progress = no_progress,
) -> Steer:
    """Carry a steer over to another model.

    Args:
        source: the steer's base.
        steer: of form multiply or add.
        target: the model to carry it to.
        texts: any, of any style, for both models to read; the starter texts if none.
        labelled: a few labelled texts of both ends, or none. Half of them choose the units of strength, the others are
            read; of form add, which has none to choose, all are read.
        how: the map of words (``maps``).
        power: of the frequency that words are weighed by.
        progress: what to tell of the work.

    Returns:
        The steer of the target. Its card tells where it comes from; held-out figures are of half of ``labelled``.

    Raises:
        WrongBaseError: the steer is of another model than ``source``.
        SteerError: a steer of form offset, or one of which nothing arrives.
        DataError: an unknown map, or texts that cannot be read.
        ModelError: no words in common, or a tokenizer that cannot tell where its tokens stand.
    """
    steer.card.check_base(source)
    if how not in WORD_MAPS:
        raise DataError(f"the map of words is one of {', '.join(WORD_MAPS)}, not {how!r}.")
    labelled = list({text.digest: text for text in labelled}.values())  # a text twice would choose and be read
    if labelled:
        check_labelled(labelled, "the labelled data")
    if steer.form == "offset":
        raise SteerError("a steer of form offset moves single words and cannot be carried over; fit it anew.")
    texts = texts or [text.text for dimension in DIMENSIONS for text in starter_texts(dimension)]
    of_source, of_target = fisher_factors(source), fisher_factors(target)
    pairs = align_states(source, target, texts, progress=progress)
    words = find_shared_vocabulary(source, target, pairs, power)
    factors = {name: factor.double() for name, factor in steer.factors.items()}
    written = factors["B"] if steer.form == "multiply" else factors["a"][:, None]
    carried = {"B": map_writer(how, words, of_source, of_target, written)}
    if steer.form == "multiply":
        carried["A"] = map_reader(pairs, factors["A"])
    before, after = _price(of_source, factors.get("A"), written), _price(of_target, carried.get("A"), carried["B"])
    if not after > 0:
        raise SteerError(f"nothing of steer {steer.card.name!r} arrives at {target.name}.")
    carried["B"] *= (_PRICE * before / after) ** 0.5
    carried |= _ends(source, target, of_target, pairs, factors)
    found = {name: factor.float().contiguous() for name, factor in carried.items()}
    if steer.form == "add":
        found = {"a": found["B"].squeeze(1)}
    vocabulary, hidden_size = target.head.weight.shape
    card = _card(steer.card, target, how, power, pairs, words)
    moved = Steer(steer.form, found, hidden_size, vocabulary, card)
    return _measured(target, moved, labelled) if labelled else moved


def _price(fisher: FisherFactors, a: Tensor | None, b: Tensor) -> float:
    """Nats that W = A Bᵀ, or a shift b, costs at strength 1, twice, to second order."""
    return float((b.T @ fisher.f @ b).sum()) if a is None else fisher.inner((a, b), (a, b))


def _card(card: Card, target: LM, how: WordMap, power: float, pairs: AlignedStates, words: SharedVocabulary) -> Card:
    """The card of a steer that was carried over: what it means stays, its base and its fit are others."""
    fit = {
        "method": "transfer",
        "from": {"base": card.base, "fingerprint": card.base_fingerprint, "fit": card.fit},
        "map": how,
        "power": power,
        "pairs": pairs.count,
        "shared_words": len(words.weights),
        "their_frequency": round(words.frequency, 4),
    }
    return target.card(card.name, label=card.label, data=card.data, fit=fit)


def _ends(
    source: LM, target: LM, of_target: FisherFactors, pairs: AlignedStates, factors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The end part: its readers carried over, its direction the target's own, as strong as each reader's was."""
    if "A_eos" not in factors or target.end_id is None or len(pairs.target_ends) < _FEWEST_ENDS:
        return {}
    u = end_direction(of_target, _end_residual(target, pairs.target_ends))
    # Each column of B_eos was a direction u of unit effect on the mean residual, times a strength.
    strengths = factors["B_eos"].T @ _end_residual(source, pairs.source_ends)
    return {"A_eos": map_end_reader(pairs, factors["A_eos"]), "B_eos": u[:, None] * strengths}


def _end_residual(lm: LM, ends: Tensor) -> Tensor:
    """Mean residual (d,) of the end-of-text token where texts end, float64 on the CPU."""
    assert lm.end_id is not None
    tokens = torch.full((len(ends),), lm.end_id, device=lm.device)
    r, _ = lm.head.residuals(ends.to(lm.device), tokens)
    return r.double().mean(0).cpu()


def _measured(target: LM, steer: Steer, labelled: Sequence[LabelledText]) -> Steer:
    """The steer with units of strength from half of the labelled texts, and figures from the other half.

    A steer of form add has no unit to choose: all texts are read.
    """
    ordered = sorted(labelled, key=lambda text: text.digest)
    if steer.form == "add":
        return _read(target, steer, ordered)
    half = LabelledRows.join(list(gather_rows(target, *encode_readable(target, ordered[::2]))))
    inside, ends = half[~half.is_end], half[half.is_end]
    factors = dict(steer.factors)
    if len(inside):
        factors["B"] = factors["B"] * largest_scale(target.head, inside, factors["A"], factors["B"])
    if "A_eos" in factors and len(ends):
        [(scale, _)] = best_scales(target.head, ends, [(factors["A_eos"], factors["B_eos"])])
        factors["A_eos"] = factors["A_eos"] * scale
    return _read(target, replace(steer, factors=factors), ordered[1::2])


def _read(target: LM, steer: Steer, labelled: Sequence[LabelledText]) -> Steer:
    """The steer with figures of labelled texts on its card."""
    rows = LabelledRows.join(list(gather_rows(target, *encode_readable(target, labelled))))
    return replace(steer, card=replace(steer.card, held_out=measure_held_out(target, rows, steer).to_json()))
