"""Requests for text, the running sequences that answer them, and the chunks that these send back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from lmsteer.errors import DataError, LMSteerError, SteerError
from lmsteer.generation.config import NO_LIMITS, GenerationConfig, Limits, SamplingConfig
from lmsteer.generation.detokenizer import Detokenizer
from lmsteer.generation.readings import ReadingLog, TokenReading
from lmsteer.generation.row import Row, check_steering, row_noise
from lmsteer.generation.schedule import acting_strengths
from lmsteer.model.kv_cache import NOTHING_BEFORE, Start
from lmsteer.model.lm import LM
from lmsteer.serving.engine.isolation import StepError, as_step_error
from lmsteer.serving.engine.logprobs import TokenLogprob
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths

FinishReason = Literal["stop", "length", "timeout"]
_OVERFLOW = "the logits overflowed at {}: lower the strength."
_NOT_FINITE = "the model's logits on this text are not finite numbers: its weights may be damaged."
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
        max_new_tokens: maximum number of new tokens; 0 to read the prompt only.
        seed: seed of the random numbers, as in ``lmsteer.generate`` for this prompt alone.
        sample: number of this sample among those of the same prompt, from 0.
        stop: strings that end the text; they are not part of it.
        num_logprobs: number of likeliest tokens to report at each step, beside the drawn one; None for no
            log-likelihoods at all.
        echo: whether the new text is to stand behind the prompt: it keeps a space before its first word, and the
            log-likelihoods are also those of the prompt's tokens.
        timeout: maximum time from submission to the last token, in seconds.
        limits: how far the steers may move each token.
        before: where the row starts before the prompt: after a gist, say, or with an adapter of its own.
        readings: whether what is known of each new token is sent.
        is_thinking: whether the text begins inside the thinking part of a chat's answer.
    """

    ids: Sequence[int]
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Strengths = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = GenerationConfig.max_new_tokens
    seed: int = 0
    sample: int = 0
    stop: Sequence[str] = ()
    num_logprobs: int | None = None
    echo: bool = False
    timeout: float = float("inf")
    limits: Limits = NO_LIMITS
    before: Start = NOTHING_BEFORE
    readings: bool = False
    is_thinking: bool = False

    @property
    def tokens(self) -> int:
        """The number of tokens of the prompt and of what stands before it."""
        return self.before.tokens + len(self.ids)

    def check(self, lm: LM) -> None:
        """Refuse what the model cannot serve.

        Raises:
            DataError: there is no prompt, or it has a token that the model cannot read.
            SteerError: a steer has no strength, or one that is not a finite number or never acts, belongs to another
                model, or is to be held and has no reader.
        """
        if not self.ids:
            raise DataError("the prompt has no tokens: there is nothing to continue.")
        lm.codec.check(self.ids, "the prompt")
        # Of a prompt that is only read, no token is written that a window could hold.
        tokens = self.max_new_tokens or math.inf
        check_steering(lm, self.steers, self.strengths, tokens, limits=self.limits, readings=self.readings)


@dataclass(frozen=True)
class Chunk:
    """What one step adds to a sequence.

    Attributes:
        text: new text that later tokens cannot change.
        logprob: the drawn token's log-likelihood, if the request asked for it.
        tokens: number of tokens drawn so far.
        steered: number of those that were drawn after a steer had moved the hidden state.
        cached: number of the prompt's tokens that did not have to be read, since an earlier prompt began alike.
        prompt: the log-likelihoods of the prompt's tokens after its first, once it has been read, if the request asked
            for them.
        finish: the reason why the sequence has ended, or None. ``stop``: an end-of-text token or a stop string;
            ``length``: the maximum number of tokens; ``timeout``: the time is over.
        error: the error that ended the sequence, or None.
        reading: what is known of the token, if the request asked for it.
    """

    text: str
    logprob: TokenLogprob | None
    tokens: int
    steered: int
    cached: int = 0
    prompt: Sequence[TokenLogprob] | None = None
    finish: FinishReason | None = None
    error: LMSteerError | None = None
    reading: TokenReading | None = None


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
        ended: whether it has sent its last chunk.
        cached: number of the prompt's tokens that did not have to be read.
        sums: what was read of the text so far for its holds, where it is preempted (``Row.sums``).
    """

    def __init__(
        self, lm: LM, request: Request, on_chunk: Callable[[Chunk], None], clock: Clock = time.monotonic
    ) -> None:
        self._lm, self.request, self.arrival, self._on_chunk, self._clock = lm, request, 0, on_chunk, clock
        self.ids = list(request.ids)
        self.cancelled = self.ended = False
        self.cached = 0
        self.sums: Mapping[str, Tensor] = {}
        self._end_ids = set(lm.stop_ids)
        self._text = Detokenizer(lm.codec, request.stop, request.ids if request.echo else ())
        self._noise = row_noise(request.seed, 0, request.sample, max(1, request.max_new_tokens))
        self._readings = ReadingLog(request.steers)
        self._prompt: list[TokenLogprob] = []
        self._prompt_wanted = request.echo and request.num_logprobs is not None
        self._tokens, self._steered = 0, 0
        self._deadline = clock() + request.timeout

    @property
    def row(self) -> Row:
        """What is to be written from here on."""
        request = self.request
        noise = self._noise[self._tokens :]
        written = self.ids[len(request.ids) :]
        start = replace(request.before, ids=list(self.ids))
        fields = request.steers, request.strengths, request.sampling, request.limits, written, request.readings
        return replace(Row(start, noise, *fields), is_thinking=request.is_thinking, sums=self.sums)

    @property
    def length(self) -> int:
        """The number of tokens of its row so far, with what stands before the prompt."""
        return self.request.before.tokens + len(self.ids)

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

    @property
    def wants_prompt(self) -> bool:
        """Whether its prompt has to be read whole, since the log-likelihoods of its tokens are wanted."""
        return self._prompt_wanted

    def next_of_prompt(self, tokens: int) -> Sequence[int]:
        """The next so many tokens of the prompt that a log-likelihood is wanted of, after those that have one."""
        first = 1 + len(self._prompt)
        return self.request.ids[first : first + tokens] if self._prompt_wanted and not self.ended else []

    def begin_prompt(self) -> None:
        """Its prompt is read from the beginning."""
        self._prompt = []

    def extend_prompt(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Add the log-likelihoods of the prompt's next tokens."""
        self._prompt.extend(logprobs)

    def end_prompt(self) -> None:
        """Its prompt has been read: send the log-likelihoods; that ends it if there are to be no new tokens.

        Raises:
            Exception: the chunk cannot be sent.
        """
        finish: FinishReason | None = None if self.request.max_new_tokens else "length"
        if self._prompt_wanted or finish:
            prompt = self._prompt if self._prompt_wanted else None
            self._send(Chunk("", None, self._tokens, self._steered, prompt=prompt, finish=finish))
        self._prompt_wanted = False  # a sequence that is preempted is read once more, and has sent them

    def append(
        self, token: int, steered: bool, logprob: TokenLogprob | None = None, values: Sequence[float] = ()
    ) -> None:
        """Add a drawn token and send the chunk, which may be the last one.

        Args:
            token: the token.
            steered: whether a steer had moved the hidden state before.
            logprob: its log-likelihood, if that is wanted.
            values: its line in the table of readings, if there is one.

        Raises:
            Exception: the text cannot be decoded, or the chunk cannot be sent.
        """
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
        reading = self._readings.add(token, text, values) if values else None
        self._send(Chunk(text, logprob, self._tokens, self._steered, finish=finish, reading=reading))

    def expire(self) -> None:
        """End it because its time is over; the text so far stays valid."""
        if self.ended:
            return
        try:
            self._send(Chunk(self._text.end(), None, self._tokens, self._steered, finish="timeout"))
        except BaseException as error:
            self.fail(as_step_error(error))

    def fail(self, error: LMSteerError) -> None:
        """End it with an error; one that has ended stays as it is."""
        if self.ended:
            return
        try:
            self._send(Chunk("", None, self._tokens, self._steered, error=error))
        except BaseException as reason:  # whoever waits cannot be told
            as_step_error(reason)
            self.ended = True

    def fail_overflowed(self) -> None:
        """End it because logits of it are not finite numbers."""
        acting = acting_strengths(self._lm, self.row, ())
        self.fail(SteerError(_OVERFLOW.format(acting)) if acting else StepError(_NOT_FINITE))

    def _send(self, chunk: Chunk) -> None:
        self.ended = bool(chunk.finish or chunk.error)
        try:
            self._on_chunk(replace(chunk, cached=self.cached))
        except BaseException:
            self.ended = False  # the error is still to be sent
            raise
