"""The service: requests become orders for the engine, and pieces become answers. No word of HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lmsteer.errors import LMSteerError, SteerError
from lmsteer.generation.config import SamplingConfig
from lmsteer.model.lm import LM
from lmsteer.reading.analyse import Analysis, analyse
from lmsteer.serving.engine.engine import BusyError, Engine
from lmsteer.serving.engine.requests import Chunk, Finish, Request, TokenLogprob
from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.schema import AnalyseRequest, ChatRequest, CompletionRequest, WritingRequest
from lmsteer.serving.registry import SteerRegistry
from lmsteer.steer.notation import of_model_name, outside_safe_range
from lmsteer.steer.steer import Steer


@dataclass(frozen=True)
class RequestLimits:
    """What a server lets requests do.

    Attributes:
        context: tokens of a prompt and what is written after it, at most.
        rows: of one request, at most: prompts times samples.
        seconds: that an answer may take.
        strict: refuse strengths outside the range that was found safe, in place of a warning.
    """

    context: int
    rows: int = 64
    seconds: float = 120.0
    strict: bool = False


@dataclass(frozen=True)
class Dial:
    """Steers and strengths of a request, and what is to be said of them."""

    steers: Mapping[str, Steer]
    strengths: Mapping[str, float]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Job:
    """A request, read.

    Attributes:
        orders: a row each, sample by sample for every prompt.
        dial: that acts on all of them.
        prompt_tokens: of its prompts, each counted once.
    """

    orders: Sequence[Request]
    dial: Dial
    prompt_tokens: int


@dataclass
class Choice:
    """A row's answer so far."""

    text: str = ""
    chosen: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    steered: int = 0
    finish: Finish | None = None

    def add(self, piece: Chunk) -> None:
        """Take a piece in."""
        self.text += piece.text
        self.tokens, self.steered, self.finish = piece.tokens, piece.steered, piece.finish
        if piece.chosen is not None:
            self.chosen.append(piece.chosen)


class Service:
    """Reads requests for one model.

    Args:
        engine: that writes.
        shelf: of its steers.
        rules: for requests.
        name: under which the model is served.
    """

    def __init__(self, engine: Engine, shelf: SteerRegistry, rules: RequestLimits, name: str) -> None:
        self.engine, self.shelf, self.rules, self.name = engine, shelf, rules, name

    @property
    def lm(self) -> LM:
        """The model."""
        return self.engine.lm

    def completion(self, request: CompletionRequest) -> Job:
        """A text, or several, to continue.

        Raises:
            RequestError: it cannot be done as asked.
        """
        return self._job(request, self._prompts(request.prompt), request.max_tokens, request.logprobs)

    def chat(self, request: ChatRequest) -> Job:
        """A conversation to go on with.

        Raises:
            RequestError: it cannot be done as asked.
        """
        ids = self._conversation(request)
        asked = request.max_completion_tokens or request.max_tokens or max(1, self.rules.context - len(ids))
        top = (request.top_logprobs or 0) if request.logprobs else None
        return self._job(request, [ids], asked, top)

    def read(self, request: AnalyseRequest) -> list[Future[Analysis]]:
        """Texts to read, each between two steps of the engine.

        Raises:
            RequestError: there is no such steer, or a text is longer than the context.
            BusyError: too much waits to be read.
        """
        steers = {name: self.steer(name) for name in request.steers}
        if len(request.texts) > (most := self.engine.limits.readings):
            raise RequestError(f"{len(request.texts)} texts are to be read at once; {most} can wait.", param="texts")
        for ids in self.lm.encode(request.texts):
            if len(ids) > self.rules.context:
                raise RequestError(f"a text has {len(ids)} tokens, more than {self.rules.context}.", param="texts")

        def reading(text: str) -> Callable[[], Analysis]:
            return lambda: analyse(self.lm, [text], steers, spans=request.spans)[0]

        readings: list[Future[Analysis]] = []
        try:
            for text in request.texts:
                readings.append(self.engine.call(reading(text)))
        except LMSteerError:  # nobody waits for those that are in the queue already
            for each in readings:
                each.cancel()
            raise
        return readings

    def steer(self, name: str) -> Steer:
        """A steer by name.

        Raises:
            RequestError: there is none, with status 404.
        """
        try:
            return self.shelf.find(name)
        except SteerError as error:
            raise RequestError(str(error), status=404, param="steers", code="bad_steer") from error

    def check_model(self, name: str) -> None:
        """Refuse the name of a model that is not served, and not served under steers either.

        Raises:
            RequestError: with status 404.
        """
        try:
            self.shelf.dial(self._named(name))
        except SteerError as error:
            raise RequestError(str(error), status=404, param="model", code="model_not_found") from error

    def _job(self, request: WritingRequest, prompts: Sequence[Sequence[int]], tokens: int, top: int | None) -> Job:
        dial = self._dial(request)
        if (rows := len(prompts) * request.n) > self.rules.rows:
            raise RequestError(f"{rows} answers are asked for at once; there can be {self.rules.rows}.", param="n")
        for ids in prompts:
            if not ids:
                raise RequestError("the prompt is empty: there is nothing to continue.", param="prompt")
            if len(ids) + tokens > self.rules.context:
                raise RequestError(
                    f"the prompt has {len(ids)} tokens; with {tokens} more it is longer than {self.rules.context}.",
                    param="max_tokens",
                    code="context_length_exceeded",
                )
        seed = secrets.randbits(32) if request.seed is None else request.seed
        orders = [
            Request(
                ids=ids,
                steers=dial.steers,
                strengths=dial.strengths,
                sampling=SamplingConfig(request.top_p, request.top_k, request.temperature),
                max_new_tokens=tokens,
                seed=seed,
                sample=sample,
                stop=request.stops,
                top=top,
                seconds=self.rules.seconds,
            )
            for ids in prompts
            for sample in range(request.n)
        ]
        return Job(orders, dial, sum(map(len, prompts)))

    def _dial(self, request: WritingRequest) -> Dial:
        """From ``steers``, and from a model named like ``sentiment@2.5``."""
        try:
            steers, strengths = self.shelf.dial(request.steers)
            by_name = self._named(request.model)
            if by_name and strengths:
                raise SteerError("strengths stand in the model's name and in steers: give them in one place.")
            if by_name:
                steers, strengths = self.shelf.dial(by_name)
        except SteerError as error:
            raise RequestError(str(error), param="steers", code="bad_steer") from error
        warnings = outside_safe_range({name: steer.card for name, steer in steers.items()}, [strengths])
        if warnings and self.rules.strict:
            raise RequestError(" ".join(warnings), param="steers", code="beyond_safe_range")
        return Dial(steers, strengths, warnings)

    def _named(self, model: str | None) -> str:
        """The steers that a model's name asks for."""
        if model is None or model == self.name:
            return ""
        if "@" not in model:
            raise RequestError(
                f"unknown model {model!r}: {self.name!r} is served.", status=404, param="model", code="model_not_found"
            )
        return of_model_name(model)

    def _prompts(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
        """Ids of each."""
        prompts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else [*prompt]
        texts = [each for each in prompts if isinstance(each, str)]
        if texts:
            return self.lm.encode(texts)
        vocabulary = self.lm.head.weight.shape[0]
        if beyond_it := [token for ids in prompts for token in ids if token >= vocabulary]:
            raise RequestError(f"token {beyond_it[0]} is none of the {vocabulary} that there are.", param="prompt")
        return prompts

    def _conversation(self, request: ChatRequest) -> list[int]:
        """Ids of a conversation, as the model was taught to see one."""
        turns = [{"role": turn.role, "content": turn.text} for turn in request.messages]
        if not self.lm.tokenizer.chat_template:
            raise RequestError(f"{self.name} has no chat template: use /v1/completions.", param="messages")
        try:
            text = self.lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of its own, and refuses what it does not know in any way
            raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from error
        return self.lm.encode([str(text)], special=False)[0]


class Answer:
    """The rows of a request on their way.

    Args:
        engine: that writes them.
        orders: of the rows.

    Raises:
        BusyError: too much waits.
        StoppedError: the engine is closed.
    """

    def __init__(self, engine: Engine, orders: Sequence[Request]) -> None:
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Chunk]]()
        self._rows = engine.submit(orders, self._tell)

    async def pieces(self) -> AsyncIterator[tuple[int, Chunk]]:
        """Pieces as they come, each with the number of its row, which is written no further when nobody asks for more.

        Raises:
            BusyError: the time was over before the first token.
            LMSteerError: a row failed.
        """
        left, begun = len(self._rows), False
        try:
            while left:
                place, piece = await self._pieces.get()
                begun = begun or piece.tokens > 0
                if piece.error is not None:
                    raise piece.error
                if piece.finish == "timeout" and not begun:
                    raise BusyError("no place was free in time.")
                left -= piece.finish is not None
                yield place, piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Write no further."""
        for row in self._rows:
            row.cancel()

    def _tell(self, place: int, piece: Chunk) -> None:
        """From the engine's thread; a loop that is closed has nobody left to tell."""
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (place, piece))
        except RuntimeError as error:
            if not self._loop.is_closed():
                raise LMSteerError(str(error)) from error
