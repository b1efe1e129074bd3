"""Orders: what a row is to write, and the pieces that come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.generation.config import SamplingConfig
from lmsteer.generation.decoding import Row
from lmsteer.model.lm import LM
from lmsteer.serving.engine.detokenizer import Detokenizer
from lmsteer.steer.steer import Steer

Finish = Literal["stop", "length", "timeout"]


@dataclass(frozen=True)
class Request:
    """What one row is to write.

    Attributes:
        ids: of the prompt.
        steers: that act on it, by name.
        strengths: of each.
        sampling: what each token is drawn from.
        max_new_tokens: to write, at most.
        seed: of its random numbers, as of ``generate`` for this prompt alone.
        sample: which of the samples of the prompt it is.
        stop: strings before which it ends.
        top: how many of the likeliest tokens to tell at each step; None to tell no likelihoods.
        seconds: after which it ends.
    """

    ids: Sequence[int]
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = 20
    seed: int = 0
    sample: int = 0
    stop: Sequence[str] = ()
    top: int | None = None
    seconds: float = float("inf")


@dataclass(frozen=True)
class TokenLogprob:
    """A token that was drawn, its log-likelihood under the steers, and the likeliest ones."""

    token: int
    log_p: float
    top: Mapping[int, float]


@dataclass(frozen=True)
class Chunk:
    """What one step adds to a row.

    Attributes:
        text: that is certain now.
        chosen: the token, where likelihoods were asked for.
        tokens: drawn so far.
        steered: of them, how many were drawn after a steer had moved the hidden state.
        finish: why the row has ended, or None. ``stop``: an end of text or a stop; ``timeout``: its seconds are over.
        error: what went wrong, for a row that failed.
    """

    text: str
    chosen: TokenLogprob | None
    tokens: int
    steered: int
    finish: Finish | None = None
    error: LMSteerError | None = None


class GeneratedSequence:
    """A row at work: an order, and how far it is. Only the engine's thread touches it, but for ``cancel``.

    Attributes:
        order: what it writes.
        number: in the order in which rows came.
        ids: of the prompt and of what is written; the model reads the last one next.
        cancelled: nobody waits for it.
    """

    def __init__(self, lm: LM, order: Request, number: int, tell: Callable[[Chunk], None]) -> None:
        self.order, self.number, self._tell = order, number, tell
        self.ids = list(order.ids)
        self.cancelled = False
        self._ends, self._text = set(lm.stop_ids), Detokenizer(lm.tokenizer, order.stop)
        self._uniform = Row(0, (), order.sample).uniform(order.seed, order.max_new_tokens)
        self._tokens, self._steered = 0, 0
        self._deadline = time.monotonic() + order.seconds

    @property
    def u(self) -> Tensor:
        """The random number of its next token."""
        return self._uniform[self._tokens]

    @property
    def begun(self) -> bool:
        """Whether it has written anything."""
        return self._tokens > 0

    @property
    def left(self) -> int:
        """Tokens that it may still write."""
        return self.order.max_new_tokens - self._tokens

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= self._deadline

    def cancel(self) -> None:
        """Write no further."""
        self.cancelled = True

    def take(self, token: int, steered: bool, chosen: TokenLogprob | None) -> bool:
        """Take a token in and tell of it; whether the row goes on."""
        self.ids.append(token)
        self._tokens += 1
        self._steered += steered
        text = self._text.add(token)
        finish: Finish | None = None
        if token in self._ends or self._text.stopped:
            finish = "stop"
        elif not self.left:
            finish = "length"
        elif self.late:
            finish = "timeout"
        if finish:
            text += self._text.end()
        self._tell(Chunk(text, chosen, self._tokens, self._steered, finish))
        return finish is None

    def expire(self) -> None:
        """Tell that the time is over, with what has been written."""
        self._tell(Chunk(self._text.end(), None, self._tokens, self._steered, "timeout"))

    def fail(self, error: LMSteerError) -> None:
        """Tell that nothing more comes."""
        self._tell(Chunk("", None, self._tokens, self._steered, error=error))


def chosen_of(log_p: Tensor, token: int, top: int) -> TokenLogprob:
    """A token that was drawn from log-likelihoods (V,), beside so many of the likeliest."""
    values, ids = log_p.topk(top)
    return TokenLogprob(token, float(log_p[token]), dict(zip(ids.tolist(), values.tolist(), strict=True)))
