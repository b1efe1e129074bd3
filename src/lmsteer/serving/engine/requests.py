"""Requests for text, the running sequences that answer them, and the chunks that these send back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from lmsteer.errors import LMSteerError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.decoding import Row
from lmsteer.model.lm import LM
from lmsteer.serving.engine.detokenizer import Detokenizer
from lmsteer.steer.steer import Steer

FinishReason = Literal["stop", "length", "timeout"]
Clock = Callable[[], float]
"""Gives the time in seconds, as ``time.monotonic`` does."""


@dataclass(frozen=True)
class Request:
    """A request for one sequence.

    Attributes:
        ids: token ids of the prompt.
        steers: steers by name.
        strengths: the strength of each steer.
        sampling: the distribution that tokens are drawn from.
        max_new_tokens: maximum number of new tokens.
        seed: seed of the random numbers, as in ``lmsteer.generate`` for this prompt alone.
        sample: number of this sample among those of the same prompt, from 0.
        stop: strings that end the text; they are not part of it.
        num_logprobs: number of likeliest tokens to report at each step, beside the drawn one; None for no
            log-likelihoods at all.
        timeout: maximum time from submission to the last token, in seconds.
    """

    ids: Sequence[int]
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = GenerationConfig.max_new_tokens
    seed: int = 0
    sample: int = 0
    stop: Sequence[str] = ()
    num_logprobs: int | None = None
    timeout: float = float("inf")


@dataclass(frozen=True)
class TokenLogprob:
    """A drawn token with its log-likelihood under the steers.

    Attributes:
        token: its id.
        log_p: its log-likelihood.
        top: log-likelihoods of the likeliest tokens, by id.
    """

    token: int
    log_p: float
    top: Mapping[int, float]


@dataclass(frozen=True)
class Chunk:
    """What one step adds to a sequence.

    Attributes:
        text: new text that later tokens cannot change.
        logprob: the drawn token's log-likelihood, if the request asked for it.
        tokens: number of tokens drawn so far.
        steered: number of those that were drawn after a steer had moved the hidden state.
        finish: the reason why the sequence has ended, or None. ``stop``: an end-of-text token or a stop string;
            ``length``: the maximum number of tokens; ``timeout``: the time is over.
        error: the error that ended the sequence, or None.
    """

    text: str
    logprob: TokenLogprob | None
    tokens: int
    steered: int
    finish: FinishReason | None = None
    error: LMSteerError | None = None


class GeneratedSequence:
    """A request that waits or runs, and the state of its answer.

    Only the engine's thread may use it; ``cancel`` alone may be called from any thread.

    Args:
        lm: the model.
        request: the request.
        on_chunk: called from the engine's thread with each new chunk.
        clock: time in seconds.

    Attributes:
        request: the request.
        arrival: position in the order of arrival, which the engine sets.
        ids: token ids of the prompt and of the text so far; the model reads the last one next.
        cancelled: whether nobody waits for it any longer.
    """

    def __init__(
        self, lm: LM, request: Request, on_chunk: Callable[[Chunk], None], clock: Clock = time.monotonic
    ) -> None:
        self.request, self.arrival, self._on_chunk, self._clock = request, 0, on_chunk, clock
        self.ids = list(request.ids)
        self.cancelled = False
        self._end_ids, self._text = set(lm.stop_ids), Detokenizer(lm.tokenizer, request.stop)
        self._noise = Row(0, (), request.sample).noise(request.seed, request.max_new_tokens)
        self._tokens, self._steered = 0, 0
        self._deadline = clock() + request.timeout

    @property
    def noise(self) -> Tensor:
        """The random number in [0, 1) that its next token is drawn with."""
        return self._noise[self._tokens]

    @property
    def started(self) -> bool:
        """Whether it has at least one new token."""
        return self._tokens > 0

    @property
    def timed_out(self) -> bool:
        """Whether its time is over."""
        return self._clock() >= self._deadline

    def cancel(self) -> None:
        """Stop it at the next step; it sends no more text."""
        self.cancelled = True

    def append(self, token: int, steered: bool, logprob: TokenLogprob | None) -> bool:
        """Add a drawn token and send the chunk; False if that ends the sequence."""
        self.ids.append(token)
        self._tokens += 1
        self._steered += steered
        text = self._text.add(token)
        finish: FinishReason | None = None
        if token in self._end_ids or self._text.stopped:
            finish = "stop"
        elif self._tokens == self.request.max_new_tokens:
            finish = "length"
        elif self.timed_out:
            finish = "timeout"
        if finish:
            text += self._text.end()
        self._on_chunk(Chunk(text, logprob, self._tokens, self._steered, finish))
        return finish is None

    def expire(self) -> None:
        """End it because its time is over; the text so far stays valid."""
        self._on_chunk(Chunk(self._text.end(), None, self._tokens, self._steered, "timeout"))

    def fail(self, error: LMSteerError) -> None:
        """End it with an error."""
        self._on_chunk(Chunk("", None, self._tokens, self._steered, error=error))


def token_logprob(log_p: Tensor, token: int, top: int) -> TokenLogprob:
    """The record of a token drawn from log-likelihoods (V,), with the ``top`` likeliest tokens."""
    values, ids = log_p.topk(top)
    return TokenLogprob(token, float(log_p[token]), dict(zip(ids.tolist(), values.tolist(), strict=True)))
