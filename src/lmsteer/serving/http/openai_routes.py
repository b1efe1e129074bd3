"""OpenAI's paths for text: completions, chats, and responses."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from lmsteer.serving.http.errors import RequestError
from lmsteer.serving.http.responses import OpenAIAnswer
from lmsteer.serving.http.responses_api import ResponsesAnswer
from lmsteer.serving.http.schema.requests import ChatRequest, CompletionRequest, TextRequest
from lmsteer.serving.http.schema.responses import ChatCompletion, Completion
from lmsteer.serving.http.schema.responses_api import ResponseObject, ResponsesRequest
from lmsteer.serving.http.sending import Sender
from lmsteer.serving.http.service import ParsedRequest, Service
from lmsteer.serving.http.token_texts import TokenNames

# The fields of a chat that have another name in the Responses API.
_NAMES = {"messages": "input", "max_tokens": "max_output_tokens"}


def add_openai(router: APIRouter, service: Service, sender: Sender) -> None:
    """Add the paths to a router."""

    @router.post("/completions", response_model=Completion)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        return await _respond(request, body, await run_in_threadpool(service.completion, body), chat=False)

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await _respond(request, body, await run_in_threadpool(service.chat, body), chat=True)

    @router.post("/responses", response_model=ResponseObject)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation, in the newer format."""
        try:
            parsed = await run_in_threadpool(service.chat, body.as_chat())
        except RequestError as error:
            error.param = _NAMES.get(error.param or "", error.param)
            raise
        answer = ResponsesAnswer(TokenNames(service.lm.codec), service.name, parsed, body)
        # The last event says that it is the last one.
        return await (sender.events(answer, named=True) if body.stream else sender.whole(request, answer))

    async def _respond(request: Request, body: TextRequest, parsed: ParsedRequest, *, chat: bool) -> Response:
        usage = body.stream_options is not None and body.stream_options.include_usage
        answer = OpenAIAnswer(TokenNames(service.lm.codec), service.name, parsed, chat=chat, usage=usage)
        return await (sender.events(answer, end="[DONE]") if body.stream else sender.whole(request, answer))
