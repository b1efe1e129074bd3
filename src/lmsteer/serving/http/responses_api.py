"""The answers of OpenAI's Responses API, whole or as the events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.answer import FINISH, Answer
from lmsteer.serving.http.errors import error_response
from lmsteer.serving.http.schema.responses_api import (
    EventType,
    ItemEvent,
    OutputMessage,
    OutputText,
    PartEvent,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    Status,
    TextDelta,
    TextDone,
)
from lmsteer.serving.http.service import ParsedRequest
from lmsteer.serving.http.submission import Choice
from lmsteer.serving.http.token_texts import TokenNames

# OpenAI's names of errors within a response; all others are the server's.
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponsesAnswer(Answer):
    """The answer to a request of the Responses API: one item, with one part.

    Args:
        names: the texts of tokens.
        model: the model's name in the response.
        parsed: the request.
        request: the request as it was sent.
    """

    def __init__(self, names: TokenNames, model: str, parsed: ParsedRequest, request: ResponsesRequest) -> None:
        super().__init__(names, model, parsed)
        self._id, self._item_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created, self._request = int(time.time()), request
        self._lines: list[dict[str, Any]] = []
        self._events = 0

    def whole(self) -> ResponseObject:
        """The response without streaming."""
        self._lines = self._chat_lines(self.choices[0])
        return self._response(self._status)

    def opening(self) -> Iterator[BaseModel]:
        """The response, its item, and the item's part, all of them still empty."""
        yield self._event("response.created", "in_progress")
        yield self._event("response.in_progress", "in_progress")
        item = OutputMessage(id=self._item_id)
        yield ItemEvent(type="response.output_item.added", item=item, sequence_number=self._next())
        yield PartEvent(type="response.content_part.added", part=OutputText(), **self._place())

    def delta(self, index: int, chunk: Chunk) -> Iterator[TextDelta]:
        """New text, unless nothing of the chunk is to be seen."""
        self.note(index, chunk)
        part = Choice.of(chunk)
        lines, readings = self._chat_lines(part), self.readings(part)
        self._lines += lines
        if chunk.text or lines or readings:
            yield TextDelta(delta=chunk.text, logprobs=lines, readings=readings, **self._place())

    def closing(self) -> Iterator[BaseModel]:
        """The whole text, part, item and response."""
        part = self._part()
        yield TextDone(text=part.text, logprobs=part.logprobs, **self._place())
        yield PartEvent(type="response.content_part.done", part=part, **self._place())
        item = self._item(self._status)
        yield ItemEvent(type="response.output_item.done", item=item, sequence_number=self._next())
        status = self._status
        yield self._event("response.completed" if status == "completed" else "response.incomplete", status)

    def failure(self, error: LMSteerError) -> ResponseEvent:
        """The response with the error."""
        status, body = error_response(error)
        failed = {"code": _ERROR_CODES.get(status, "server_error"), "message": body.error.message}
        return self._event("response.failed", "failed", error=failed)

    @property
    def _status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if FINISH[self.choices[0].finish] == "length" else "completed"

    def _next(self) -> int:
        """The number of the next event."""
        self._events += 1
        return self._events - 1

    def _place(self) -> dict[str, Any]:
        """The fields of an event about the part."""
        return {"item_id": self._item_id, "sequence_number": self._next()}

    def _part(self) -> OutputText:
        return OutputText(text=self.choices[0].text, logprobs=self._lines, readings=self.readings(self.choices[0]))

    def _item(self, status: Literal["completed", "incomplete"]) -> OutputMessage:
        return OutputMessage(id=self._item_id, status=status, content=[self._part()])

    def _event(self, name: EventType, status: Status, **fields: Any) -> ResponseEvent:
        """An event about the response as a whole."""
        return ResponseEvent(type=name, response=self._response(status, **fields), sequence_number=self._next())

    def _response(self, status: Status, **fields: Any) -> ResponseObject:
        request = self._request
        response: dict[str, Any] = {
            "id": self._id,
            "created_at": self._created,
            "status": status,
            "model": self.model,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_logprobs": request.top_logprobs or 0,
            **self.steering,
            **fields,
        }
        if status in ("completed", "incomplete"):
            response |= {"completed_at": int(time.time()), "output": [self._item(self._status)], "usage": self._usage()}
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        return ResponseObject(**response)

    def _usage(self) -> ResponseUsage:
        new, prompt = self.new_tokens, self.parsed.prompt_tokens
        details = {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0}
        return ResponseUsage(
            input_tokens=prompt, input_tokens_details=details, output_tokens=new, total_tokens=prompt + new
        )

    def _chat_lines(self, choice: Choice) -> list[dict[str, Any]]:
        """The log-likelihoods of tokens; here, the bytes of a part of a character are an empty list, not null."""
        lines = [*self.logprobs[0].chat(choice)] if self.with_logprobs else []
        for line in lines:
            for entry in (line, *line["top_logprobs"]):
                entry["bytes"] = entry["bytes"] or []
        return lines
