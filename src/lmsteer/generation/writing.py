"""Writing: any number of rows through a decoder of limited size.

Rows that have ended leave the decoder after each stretch of a few tokens, since a look at which have ended costs part
of a token; waiting rows take their places. The model is free between two steps, and where it is prepared for the rows,
whenever rows are handed on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from lmsteer.errors import LMSteerError
from lmsteer.generation.decoder import Decoder, Look
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.row import Row
from lmsteer.generation.sampling import OVERFLOW
from lmsteer.generation.scoring import unsteered_log_likelihoods
from lmsteer.model.lm import LM
from lmsteer.util.lists import swap_out

# Tokens between two looks at which rows have ended.
_STRETCH = 16
# Rows join the others once this share of the places is free: a prefill costs about as much as a token of all rows.
_REFILL = 1 / 4
# Prompt tokens that are read at once, padding included.
_PREFILL_CHUNK = 4096


class NotFiniteError(LMSteerError):
    """Logits that are not finite numbers, from which no token can be drawn."""


@dataclass
class Written:
    """What one row has written.

    Attributes:
        row: the number of the row.
        ids: its tokens, with the end-of-text token that ended it.
        log_p: their log-likelihood under the unsteered model, in nats; nan unless that was asked for.
        readings: their lines in the table of readings; none unless the row asks for them.
        ended: whether no token follows.
        failed: whether that is so because the logits after the last token are not finite numbers.
        text: its text so far, if the row has stop strings.
    """

    row: int
    ids: list[int]
    log_p: float
    readings: list[list[float]] = field(default_factory=list)
    ended: bool = False
    failed: bool = False
    text: Detokenizer | None = None

    def add(self, look: Look, row: int, length: int, stop_ids: Collection[int]) -> None:
        """Add a row's tokens up to its end, or up to where there is no token although one was to be drawn.

        It ends with an end-of-text token, a stop string, or its largest number of tokens.

        Args:
            look: the tokens of all rows.
            row: the row's place among them.
            length: the largest number of tokens.
            stop_ids: tokens that end a text.
        """
        log_p, readings = look.log_p[row] if look.log_p else (), look.readings[row]
        for place, token in enumerate(look.tokens[row]):
            if self.ended:
                break
            if token == OVERFLOW:
                self.ended = self.failed = True
                break
            self.ids.append(token)
            self.log_p += log_p[place] if log_p else 0.0
            self.readings += readings[place : place + 1]
            if self.text is not None:
                self.text.add(token)
            stopped = self.text is not None and self.text.stopped
            self.ended = stopped or token in stop_ids or len(self.ids) == length


@torch.inference_mode()
def write(
    lm: LM,
    rows: Sequence[Row],
    batch_size: int,
    *,
    score: bool = False,
    installed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[list[Written]]:
    """Write rows, each up to an end-of-text token, a stop string, or as many tokens as it has random numbers.

    A row whose logits are not finite numbers fails alone: the others are written on.

    Args:
        lm: the model.
        rows: the rows. Those with prompts of like length run together, so that there is little padding, and long ones
            first, so that a lack of memory shows at once.
        batch_size: the largest number of rows that run at once.
        score: whether to compute log-likelihoods.
        installed: prepares the model while it writes.

    Yields:
        The rows that have ended since the last ones.
    """
    stop_ids, running = frozenset(lm.stop_ids), list[Written]()
    waiting = deque(sorted(enumerate(rows), key=lambda each: -each[1].start.tokens))  # rows of one prompt stay together
    # Inside the model the unsteered model's hidden states are not known.
    score_later = score and any(steer.sites for row in rows for steer in row.steers.values())
    decoder = Decoder(lm, _PREFILL_CHUNK, score=score and not score_later)
    size = min(batch_size, decoder.max_rows or batch_size)
    # To install an adapter takes time: then rows are handed on a batch at a time.
    enough = 1 if installed is nullcontext else size
    while waiting or running:
        ended = list[Written]()
        with nullcontext() if installed is nullcontext else lm.exclusive_use(), installed():
            while (waiting or running) and len(ended) < enough:
                if size - len(running) >= min(len(waiting), max(1, size * _REFILL)):
                    running += _admit(lm, decoder, waiting, size - len(running), score)
                # No row goes on beyond its end, where its text might be longer than the model's context.
                left = min(len(row.noise) - len(text.ids) for row, text in zip(decoder.rows, running, strict=True))
                for _ in range(min(_STRETCH, left)):
                    with lm.exclusive_use():
                        decoder.step()
                ended += _look(decoder, running, stop_ids)
            if score_later:
                starts = [rows[text.row].start for text in ended]
                found = unsteered_log_likelihoods(lm, starts, [text.ids for text in ended])
                ended = [replace(text, log_p=log_p) for text, log_p in zip(ended, found, strict=True)]
        yield ended


def _admit(lm: LM, decoder: Decoder, waiting: deque[tuple[int, Row]], places: int, score: bool) -> list[Written]:
    """Let the next rows join the others."""
    new = [waiting.popleft() for _ in range(min(places, len(waiting)))]
    if new:
        decoder.admit([row for _, row in new])
    texts = [Detokenizer(lm.codec, row.stop) if row.stop else None for _, row in new]
    return [
        Written(number, [], 0.0 if score else math.nan, text=text) for (number, _), text in zip(new, texts, strict=True)
    ]


def _look(decoder: Decoder, running: list[Written], stop_ids: Collection[int]) -> list[Written]:
    """Take the new tokens of the rows; those that have ended leave."""
    look = decoder.look()
    for place, (text, row) in enumerate(zip(running, decoder.rows, strict=True)):
        text.add(look, place, len(row.noise), stop_ids)
    ended = [text for text in running if text.ended]
    for place in reversed(range(len(running))):
        if running[place].ended:
            decoder.remove(place)
            swap_out(running, place)
    return ended
