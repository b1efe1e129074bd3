"""Ollama's paths: chats, texts, the model, and the version. Errors there have Ollama's shape (``errors.respond``)."""

from __future__ import annotations

import time
from importlib.metadata import version

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from lmsteer.serving.http.ollama import OllamaAnswer, chunk_of, described, shown_model, tag_of
from lmsteer.serving.http.schema.ollama import (
    ChatChunk,
    GenerateChunk,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaModels,
    OllamaVersion,
    ShownModel,
    ShowRequest,
)
from lmsteer.serving.http.sending import Sender
from lmsteer.serving.http.service import ParsedRequest, Service
from lmsteer.serving.http.token_texts import TokenNames


def add_ollama(router: APIRouter, service: Service, sender: Sender) -> None:
    """Add the paths to a router."""
    started = time.time()

    @router.post("/chat", response_model=ChatChunk)
    async def chat(body: OllamaChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        if not body.messages:
            return await run_in_threadpool(_loaded, body, chat=True)
        return await _respond(request, body, await run_in_threadpool(service.chat, body.as_chat()), chat=True)

    @router.post("/generate", response_model=GenerateChunk)
    async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
        """Answer a text in the chat template, or continue it: with ``raw``, and where the model has no template."""
        if not body.prompt:
            return await run_in_threadpool(_loaded, body, chat=False)
        parsed = await run_in_threadpool(_generation, body)
        return await _respond(request, body, parsed, chat=False)

    @router.get("/tags")
    def tags() -> OllamaModels:
        """List the served model."""
        return OllamaModels(models=[described(service.lm, started)])

    @router.post("/show")
    def show(body: ShowRequest) -> ShownModel:
        """What the served model is."""
        service.check_model(body.model_name)
        return shown_model(service.lm, service.limits.max_model_len, started)

    @router.get("/version")
    async def own_version() -> OllamaVersion:
        """The version of lmsteer."""
        return OllamaVersion(version=version("lmsteer"))

    def _generation(body: OllamaGenerateRequest) -> ParsedRequest:
        if body.raw or not (service.lm.tokenizer.chat_template or body.system):
            return service.completion(body.as_completion())
        return service.chat(body.as_chat())

    async def _respond(
        request: Request, body: OllamaChatRequest | OllamaGenerateRequest, parsed: ParsedRequest, *, chat: bool
    ) -> Response:
        answer = OllamaAnswer(TokenNames(service.lm.codec), _name(body), parsed, chat=chat)
        return await (sender.lines(answer) if body.stream else sender.whole(request, answer))

    def _loaded(body: OllamaChatRequest | OllamaGenerateRequest, *, chat: bool) -> Response:
        """The answer to a request without a text, with which clients load a model: the one that is served always is.

        Raises:
            RequestError: it is another model.
        """
        service.check_model(body.model_name)
        chunk = chunk_of(chat, "", model=_name(body), done=True, done_reason="load")
        return Response(chunk.model_dump_json(), media_type="application/json")

    def _name(body: OllamaChatRequest | OllamaGenerateRequest) -> str:
        return body.model or tag_of(service.name)
