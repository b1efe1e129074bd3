"""The service: checks requests and translates them for the engine. It knows nothing of HTTP connections."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from lmsteer.data.chats import Chat, Message
from lmsteer.errors import DataError, LMSteerError, SteerError
from lmsteer.generation.config import Limits, SamplingConfig
from lmsteer.model.kv_cache import NOTHING_BEFORE, Start
from lmsteer.model.lm import LM
from lmsteer.model.thinking import begins_thinking
from lmsteer.reading.analyse import Analysis, analyse
from lmsteer.serving.engine.engine import Engine
from lmsteer.serving.engine.requests import Request
from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.prompts import encode_messages, encode_prompt
from lmsteer.serving.http.schema.requests import AnalyseRequest, ChatRequest, CompletionRequest, TextRequest
from lmsteer.serving.registry import SteerRegistry
from lmsteer.serving.starts.named import NamedStarts
from lmsteer.steer.notation import of_model_name, outside_safe_range
from lmsteer.steer.steer import Steer
from lmsteer.steer.strength import Strengths, constant, parts_of


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for.

    Attributes:
        max_model_len: maximum number of tokens of a prompt and its new text together.
        max_choices: maximum number of sequences: prompts times samples.
        timeout: maximum time per sequence, in seconds.
        strict: refuse strengths outside the safe range; otherwise the response has a warning.
    """

    max_model_len: int
    max_choices: int = 64
    timeout: float = 120.0
    strict: bool = False


@dataclass(frozen=True)
class RequestSteering:
    """The steers of a request.

    Attributes:
        steers: steers by name.
        strengths: the strength of each.
        warnings: a sentence for each strength outside its safe range.
        is_thinking: whether the text begins inside the thinking part of a chat's answer.
    """

    steers: Mapping[str, Steer]
    strengths: Strengths
    warnings: Sequence[str]
    is_thinking: bool


@dataclass(frozen=True)
class ParsedRequest:
    """An HTTP request for text in the engine's terms.

    Attributes:
        requests: one for each sequence: all samples of the first prompt, then those of the second, and so on.
        steering: the steers, the same for all sequences.
        echoed: for each sequence the text that stands before the new one: its prompt with ``echo``, else nothing.
        prompts: number of prompts.
        prompt_tokens: number of tokens of the prompts, each counted once.
        tokens_as_ids: whether log-likelihoods name tokens by their ids.
    """

    requests: Sequence[Request]
    steering: RequestSteering
    echoed: Sequence[str]
    prompts: int
    prompt_tokens: int
    tokens_as_ids: bool = False


class Service:
    """Checks and translates requests for one model.

    Its methods may read steers from disk: call them from a thread, never on an event loop.

    Args:
        engine: the engine.
        registry: the steers.
        starts: the gists and baselines.
        limits: what one request may ask for.
        name: the name of the served model.
    """

    def __init__(
        self, engine: Engine, registry: SteerRegistry, starts: NamedStarts, limits: RequestLimits, name: str
    ) -> None:
        self.engine, self.registry, self.starts = engine, registry, starts
        self.limits, self.name = limits, name

    @property
    def lm(self) -> LM:
        """The model."""
        return self.engine.lm

    def completion(self, request: CompletionRequest) -> ParsedRequest:
        """Parse a request to continue texts.

        Raises:
            RequestError: it is not valid, or exceeds a limit.
        """
        prompts, texts = encode_prompt(self.lm, request.prompt, special=request.gist is None)
        echoed = texts if request.echo else None
        max_tokens = None if request.max_tokens == -1 else request.max_tokens
        return self._parse(request, prompts, max_tokens, request.logprobs, echoed)

    def chat(self, request: ChatRequest) -> ParsedRequest:
        """Parse a request to answer a conversation.

        Raises:
            RequestError: it is not valid, or exceeds a limit.
        """
        ids = encode_messages(self.lm, [{"role": each.role, "content": each.text} for each in request.messages])
        max_tokens = request.max_completion_tokens or request.max_tokens
        chat = Chat(tuple(Message(each.role, each.text) for each in request.messages))
        num_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return self._parse(request, [ids], max_tokens, num_logprobs, chat=chat)

    def analyse(self, request: AnalyseRequest) -> list[Future[Analysis]]:
        """Queue texts for analysis; they are analysed one after the other, beside the running requests.

        Raises:
            RequestError: a steer is unknown, a text exceeds the context, or there are too many texts.
            BusyError: too many texts are waiting.
        """
        steers = {name: self.steer(name) for name in request.steers}
        if len(request.texts) > (limit := self.engine.max_jobs):
            raise RequestError(f"{len(request.texts)} texts are too many: at most {limit} can wait.", param="texts")
        max_model_len = self.limits.max_model_len
        for number, ids in enumerate(self.lm.encode(request.texts), 1):
            if len(ids) > max_model_len:
                raise RequestError(f"text {number} has {len(ids)} tokens, more than {max_model_len}.", param="texts")

        def job(text: str) -> Callable[[], Analysis]:
            chunk = self.engine.prefill_chunk
            return lambda: analyse(self.lm, [text], steers, spans=request.spans, chunk=chunk)[0]

        futures: list[Future[Analysis]] = []
        try:
            for text in request.texts:
                futures.append(self.engine.call(job(text)))
        except LMSteerError:  # the client gets an error, so nobody waits for the texts that are queued already
            for future in futures:
                future.cancel()
            raise
        return futures

    def steer(self, name: str, param: str = "steers") -> Steer:
        """A steer by name, which stands in the field ``param`` of a request.

        Raises:
            RequestError: it is unknown; the status is 404.
        """
        try:
            return self.registry.find(name)
        except SteerError as error:
            raise RequestError(str(error), status=404, param=param, code="bad_steer") from error

    def check_model(self, name: str | None) -> None:
        """Refuse a model name that is neither the served model nor that model with steers.

        Raises:
            RequestError: the model is unknown; the status is 404.
        """
        try:
            self.registry.steering(self._strengths_in_name(name))
        except SteerError as error:
            raise RequestError(str(error), status=404, param="model", code="model_not_found") from error

    def _parse(
        self,
        request: TextRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | None,
        num_logprobs: int | None,
        echoed: Sequence[str] | None = None,
        chat: Chat | None = None,
    ) -> ParsedRequest:
        is_scored = echoed is not None and num_logprobs is not None
        steering = self._steering(request, chat, is_scored=is_scored)
        before = self._before(request, is_echoed=echoed is not None)
        if max_tokens is None:  # up to the end of the context
            max_tokens = max(1, self.limits.max_model_len - before.position - max(map(len, prompts)))
        if (count := len(prompts) * request.n) > self.limits.max_choices:
            raise RequestError(
                f"{count} choices are too many: at most {self.limits.max_choices} are allowed.", param="n"
            )
        for ids in prompts:
            self._check_length(ids, before, max_tokens)
        self._check_limits(request.limits, steering, is_scored=is_scored)
        seed = secrets.randbits(32) if request.seed is None else request.seed
        requests = [
            Request(
                ids=ids,
                steers=steering.steers,
                strengths=steering.strengths,
                sampling=SamplingConfig(request.top_p, request.top_k, request.temperature),
                limits=request.limits,
                before=before,
                is_thinking=steering.is_thinking,
                max_new_tokens=max_tokens,
                seed=seed,
                sample=sample,
                stop=request.stops,
                num_logprobs=num_logprobs,
                echo=echoed is not None,
                timeout=self.limits.timeout,
                readings=request.readings,
            )
            for ids in prompts
            for sample in range(request.n)
        ]
        texts = [text for text in echoed or [""] * len(prompts) for _ in range(request.n)]
        tokens = sum(map(len, prompts))
        return ParsedRequest(requests, steering, texts, len(prompts), tokens, request.return_tokens_as_token_ids)

    def _before(self, request: TextRequest, *, is_echoed: bool) -> Start:
        """What stands before the prompts: the gist or the baseline of the request."""
        fields = {"gist": request.gist, "baseline": request.baseline}
        named = {name: value for name, value in fields.items() if value is not None}
        if not named:
            return NOTHING_BEFORE
        field = next(iter(named))
        if len(named) > 1:
            raise RequestError("gist and baseline are both given: use one of them.", param="baseline")
        if is_echoed:
            raise RequestError(
                f"echo works without a {field} alone: the text continues more than the prompt.", param="echo"
            )
        try:
            return self.starts.find(**fields)
        except LMSteerError as error:
            raise RequestError(str(error), param=field, code=f"bad_{field}") from error

    def _check_limits(self, limits: Limits, steering: RequestSteering, *, is_scored: bool) -> None:
        """Refuse limits that would have no effect: of steers where there are none, and on the tokens of a prompt."""
        if limits.of_steers and not steering.steers:
            name = limits.of_steers[0]
            raise RequestError(f"{name} limits steers, and the request names none.", param=name)
        if limits.on and is_scored:
            name = next(iter(limits.on))
            raise RequestError(
                f"the log-likelihoods of a prompt (echo with logprobs) know no limits: leave {name} out.", param=name
            )

    def _check_length(self, ids: Sequence[int], before: Start, max_tokens: int) -> None:
        """Refuse a prompt that is too long together with its new text, and with what stands before it."""
        if before.position + len(ids) + max_tokens > self.limits.max_model_len:
            start = f" and starts at position {before.position}" if before.position else ""
            raise RequestError(
                f"the prompt has {len(ids)} tokens{start}; with {max_tokens} new ones it exceeds the context of "
                f"{self.limits.max_model_len} tokens.",
                param="max_tokens",
                code="context_length_exceeded",
            )

    def _steering(self, request: TextRequest, chat: Chat | None, *, is_scored: bool) -> RequestSteering:
        """The steers in the field ``steers``, or in a model name like ``sentiment@2.5``; and those in ``hold``."""
        field = "hold"
        try:
            self.registry.steering({}, request.hold)
            field = "steers"
            in_name = self._strengths_in_name(request.model)
            if in_name and request.steers:
                raise SteerError("strengths are given both in the model name and in steers: use one of them.")
            steers, strengths = self.registry.steering(in_name or request.steers, request.hold)
            if is_scored:
                constant(strengths, "a request with the log-likelihoods of its prompt (echo with logprobs)")
            is_thinking = begins_thinking(self.lm, chat or "", parts_of([strengths]))
        except (SteerError, DataError) as error:
            raise RequestError(str(error), param=field, code="bad_steer") from error
        warnings = outside_safe_range({name: steer.card for name, steer in steers.items()}, [dict(strengths)])
        if warnings and self.limits.strict:
            raise RequestError(" ".join(warnings), param="steers", code="outside_safe_range")
        return RequestSteering(steers, strengths, warnings, is_thinking)

    def _strengths_in_name(self, model: str | None) -> str:
        """The strengths in a model name, as ``"sentiment=2.5"``; empty for the served model itself."""
        if model is None or model == self.name:
            return ""
        if "@" not in model:
            raise RequestError(
                f"unknown model {model!r}: this server serves {self.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )
        return of_model_name(model)
