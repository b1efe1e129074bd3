"""The likelihood of texts, unsteered or as a function of strength: one pass of the model for all strengths.

Published code runs a copy of the text through the model for every strength. As ``z(s) = z₀ + s z₁`` (LM-Steer, Han et
al., ACL 2024, section 5), the hidden states of one pass serve all strengths and all steers. A text that is longer than
the model's context is read in windows that overlap.

Everything here counts tokens in the same way: ``inputs`` (T,) predict ``targets`` (T,), the same ids one place later,
and a mask says which targets count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.errors import DataError
from lmsteer.generation.backends import backend_for
from lmsteer.generation.prefill import read_prompts
from lmsteer.model.batching import length_buckets, run_in_halves
from lmsteer.model.head import Head
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.reading.encoded_text import first_predicted, is_ended
from lmsteer.reading.sweep import Directions, directions_of, sweep_texts
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.util.progress import Progress, no_progress

# Log-likelihoods (..., N) of N targets, given their hidden states (N, d), the targets (N,), and whether each is the
# end of its text (N,).
_Score = Callable[[Tensor, Tensor, Tensor], Tensor]
# Tokens that are scored at once where other threads wait for their turn.
_TURN = 32


class Window(NamedTuple):
    """A part of a text that is read at once: tokens ``start`` to ``end``, of which those from ``first`` on count."""

    start: int
    end: int
    first: int


def windows(length: int, size: int, first: int = 1) -> Iterator[Window]:
    """Windows of ``size`` tokens over a text of ``length``: each token from ``first`` on counts in exactly one.

    Where a text is cut, at least half a window of it stands before the first token that counts.
    """
    counted = first
    while counted < length:
        end = min(size if counted < size else counted + size - size // 2, length)
        yield Window(max(end - size, 0), end, counted)
        counted = end


@torch.inference_mode()
def steered_log_likelihoods(
    lm: LM,
    ids: Sequence[Sequence[int]],
    steers: Sequence[Steer],
    strengths: Sequence[float],
    *,
    window: int | None = None,
    chunk: int | None = None,
    progress: Progress = no_progress,
) -> list[Tensor]:
    """Log-likelihoods (K, S, T - 1) of each text's tokens after its first, in nats; 0 for the tokens of its prompt.

    Each of K steers acts alone, at each of S strengths; its eos component acts on the end-of-text token. A steer of the
    head alone needs one pass of the model for all strengths; one that acts inside the model needs one for each. There
    it acts on the tokens of the prompt, too, as when the model generates.

    Args:
        lm: the steers' base.
        ids: the ids of the texts.
        steers: steers of any form.
        strengths: the strengths.
        window: the most tokens that a token is read after; the model's context if None.
        chunk: the most tokens of a window in one pass of the model, where it keeps keys and values and no steer acts
            inside it; all if None. Between two passes other threads may use the model; tokens are scored in turn with
            them, too.
        progress: reports how many windows are read.

    Raises:
        DataError: no strengths, a window below 2 or beyond the model's context, or too little memory for one window.
        SteerError: a strength that is not a finite number.
        WrongBaseError: a steer of another base.
    """
    if not strengths:
        raise DataError("no strengths to read texts at.")
    for steer in steers:
        lm.check_base(Mix({"s": steer}, {"s": strengths}))  # Mix refuses strengths that are not finite
    size = lm.max_length if window is None else window
    if not 2 <= size <= lm.max_length:
        raise DataError(f"the window is {size} tokens; it must be from 2 to the model's context, {lm.max_length}.")
    found = [torch.zeros(len(steers), len(strengths), max(len(tokens) - 1, 0)) for tokens in ids]
    for some, tried, mix in _passes(steers, strengths):
        directions, shape = directions_of(lm.head, [steers[k] for k in some]), (len(some), len(tried))
        score = partial(_swept, lm, directions, [strengths[j] for j in tried], in_turn=chunk is not None)
        lines = _score_texts(lm, ids, score, size, chunk, shape, progress, mix)
        for text, line in zip(found, lines, strict=True):
            text[torch.tensor(some)[:, None], torch.tensor(tried)] = line
    return found


def _passes(steers: Sequence[Steer], strengths: Sequence[float]) -> Iterator[tuple[list[int], list[int], Mix | None]]:
    """What each pass over the texts gives: for which steers, at which strengths, and what acts inside the model."""
    if head_alone := [k for k, steer in enumerate(steers) if not steer.sites]:
        yield head_alone, [*range(len(strengths))], None
    for k, steer in enumerate(steers):
        for j, strength in enumerate(strengths if steer.sites else ()):
            yield [k], [j], Mix({"s": steer}, {"s": strength})


def _swept(
    lm: LM,
    directions: Directions,
    strengths: Sequence[float],
    h: Tensor,
    targets: Tensor,
    is_end: Tensor,
    *,
    in_turn: bool,
) -> Tensor:
    """Log-likelihoods (K, S, N) along directions; some at a time where other threads wait for their turn."""
    if not in_turn:
        return sweep_texts(lm.head, h, targets, is_end, directions, strengths)
    lines = [torch.empty(len(directions[0]), len(strengths), 0)]
    for rows, y, ends in zip(*(each.split(_TURN) for each in (h, targets, is_end)), strict=True):
        with lm.exclusive_use():
            lines.append(sweep_texts(lm.head, rows, y, ends, directions, strengths))
    return torch.cat(lines, -1)


@torch.inference_mode()
def log_likelihoods(lm: LM, ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-likelihoods (T - 1,) of each text's tokens after its first under the unsteered model, in nats.

    Those of the tokens of its prompt are 0.

    A text that is longer than the model's context is read in windows, as in ``steered_log_likelihoods``.

    Raises:
        DataError: too little memory for one window.
    """

    def score(h: Tensor, targets: Tensor, is_end: Tensor) -> Tensor:
        return lm.head.log_likelihood(h, targets).cpu()

    return _score_texts(lm, ids, score, lm.max_length, None, (), no_progress)


def next_token_log_likelihoods(head: Head, h: Tensor, mix: Mix) -> Iterator[Tensor]:
    """Log-likelihoods (n, V) of all next tokens, for pieces of n rows that are small enough for the memory.

    They are those that tokens are drawn from: no eos component acts.

    Args:
        head: the model's head.
        h: hidden states (N, d) in front of any steer at the head.
        mix: the steers, with a strength for all rows or one for each (N,).
    """
    for rows, places in head.pieces(h, torch.arange(len(h))):
        here = mix.for_rows(places)
        raw = here.steer_logits(head.raw(here.steer_hidden_states(rows.to(head.device))).float())
        z = head.post(raw)
        yield torch.log_softmax(z, -1, out=z)


def sequence_log_prob(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Log-likelihood of the targets (B, T) that the mask (B, T) counts, summed over each row (B,), on the CPU.

    Args:
        logits: logits (B, T, V) of any model, steered or not.
        targets: ids of the tokens that the logits predict.
        mask: 1 or True where a target counts.
    """
    log_p = torch.log_softmax(logits.float(), -1).gather(-1, targets[..., None]).squeeze(-1)
    return (log_p * mask).sum(1).cpu()


def _score_texts(
    lm: LM,
    ids: Sequence[Sequence[int]],
    score: _Score,
    size: int,
    chunk: int | None,
    shape: tuple[int, ...],
    progress: Progress,
    mix: Mix | None = None,
) -> list[Tensor]:
    """Log-likelihoods (*shape, T - 1) of each text's tokens after its first, read in windows of ``size`` tokens.

    Steers of ``mix`` act inside the model.
    """
    parts = [
        (text, part) for text, tokens in enumerate(ids) for part in windows(len(tokens), size, first_predicted(tokens))
    ]
    pieces = [ids[text][part.start : part.end] for text, part in parts]
    scores = [torch.zeros(*shape, max(len(tokens) - 1, 0)) for tokens in ids]
    with progress("reading texts", len(parts), 0) as step:
        for batch in length_buckets(pieces):
            h, targets = _predicting(lm, [pieces[i] for i in batch], chunk, mix)
            counted, is_end = _places(lm, [(ids[parts[i][0]], parts[i][1]) for i in batch])
            lines = score(h[counted], targets[counted], is_end[counted])
            lengths = [parts[i][1].end - parts[i][1].first for i in batch]
            for i, line in zip(batch, lines.split(lengths, dim=-1), strict=True):
                text, part = parts[i]
                scores[text][..., part.first - 1 : part.end - 1] = line
            step(len(batch), "")
    return scores


def _predicting(lm: LM, ids: Sequence[Sequence[int]], chunk: int | None, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """Hidden states (N, d) and targets (N,) of a batch of texts; in halves if memory is short.

    Steers of ``mix`` act inside the model.
    """
    if mix is None and chunk is not None and max(map(len, ids)) > chunk and backend_for(lm)[1] is None:
        h = torch.cat([part.hidden[0] for text in ids for part in read_prompts(lm, [Start(text)], chunk)])
        return h, torch.tensor([token for text in ids for token in text[1:]], device=h.device)

    states, targets = zip(*(part for _, part in run_in_halves(partial(lm.predicting, mix=mix), ids)), strict=True)
    return torch.cat(states), torch.cat(targets)


def _places(lm: LM, parts: Sequence[tuple[Sequence[int], Window]]) -> tuple[Tensor, Tensor]:
    """For the targets (N,) of windows of some texts: which count, and which are the end of their text."""
    counted, is_end = [], []
    for tokens, window in parts:
        place = torch.arange(window.start + 1, window.end)
        counted.append(place >= window.first)
        is_end.append((place == len(tokens) - 1) & is_ended(lm, tokens))
    return torch.cat(counted), torch.cat(is_end)
