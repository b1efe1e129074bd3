"""What the page asks of the service. Its requests have the limits of HTTP requests; errors become messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from lmsteer.errors import LMSteerError
from lmsteer.serving.engine.requests import Chunk
from lmsteer.serving.http.schema.requests import ChatRequest, CompletionRequest
from lmsteer.serving.http.service import ParsedRequest, Service
from lmsteer.serving.http.submission import Choice

# Maximum number of running actions of each kind over all open pages: each one occupies a thread.
CONCURRENCY = 8
PROMPT = "The movie was"
# The steer that is selected at first, if it is there.
_FIRST_STEER = "sentiment"
P = ParamSpec("P")
T = TypeVar("T")


def page_error(message: str) -> gr.Error:
    """An error for the page to show. It is the user's mistake, so it is not logged."""
    return gr.Error(message, print_exception=False)


def shows_errors(action: Callable[P, T]) -> Callable[P, T]:
    """The same function, whose errors the page shows."""

    @wraps(action)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except (LMSteerError, ValueError) as error:
            raise page_error(str(error)) from error

    return wrapped


def first_steer(names: Sequence[str]) -> str:
    """The steer that is selected at first."""
    return _FIRST_STEER if _FIRST_STEER in names else names[0]


@shows_errors
def parse(
    service: Service, prompt: str, steers: Mapping[str, float | str], *, chat: bool = False, **fields: Any
) -> ParsedRequest:
    """A prompt and strengths as a request to the engine.

    Args:
        service: the service.
        prompt: the prompt.
        steers: the strength of each steer.
        chat: whether the prompt is a message to answer, and not a text to continue.
        fields: other fields of a request for text.

    Raises:
        gr.Error: the request is not valid.
    """
    fields["steers"] = dict(steers)
    if chat:
        messages = [{"role": "user", "content": prompt}]
        return service.chat(ChatRequest.model_validate({"messages": messages, **fields}))
    return service.completion(CompletionRequest(prompt=prompt, **fields))


def generate(service: Service, parsed: Sequence[ParsedRequest]) -> Iterator[list[Choice]]:
    """The texts of some requests as they grow; if the caller stops, they are cancelled.

    Yields:
        One choice for each sequence, the same objects each time.

    Raises:
        gr.Error: the engine refuses the requests, or a sequence fails.
    """
    requests = [request for each in parsed for request in each.requests]
    choices, chunks = [Choice() for _ in requests], SimpleQueue[tuple[int, Chunk]]()
    submit = shows_errors(service.engine.submit)
    sequences = submit(requests, lambda index, chunk: chunks.put((index, chunk)))
    try:
        while not all(choice.finish for choice in choices):
            index, chunk = chunks.get()
            if chunk.error is not None:
                raise page_error(str(chunk.error))
            choices[index].add(chunk)
            if chunks.empty():
                yield choices
    finally:
        for sequence in sequences:
            sequence.cancel()
