# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A chat service on a ModelForge model, with coroutines and with plain functions. It contains no telemetry."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing
from typing import Annotated

from fastapi.responses import StreamingResponse
from langchain_core.language_models import BaseChatModel
from modelforge import ModelForgeRegistry
from pydantic import BaseModel

from fastapi import Depends, FastAPI

# ModelForge writes its log to standard output.
logging.getLogger("modelforge").setLevel(logging.WARNING)

app = FastAPI()
registry = ModelForgeRegistry()


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


def model() -> BaseChatModel:
    return registry.get_llm(enhanced=False)


def opened() -> Iterator[ExitStack]:
    """Yield a stack that is closed with the request."""
    with ExitStack() as stack:
        yield stack


Model = Annotated[BaseChatModel, Depends(model)]
Opened = Annotated[ExitStack, Depends(opened)]


@app.post("/chat")
async def chat(question: Question, llm: Model) -> Answer:
    reply = await llm.ainvoke(question.text)
    return Answer(text=str(reply.content))


@app.post("/chat/stream")
async def chat_stream(question: Question, llm: Model) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        # ModelForge sets a base_url, with which LangChain requests a stream's usage only if stream_usage is set.
        async for chunk in llm.astream(question.text, stream_usage=True):
            yield event(chunk.content)

    return StreamingResponse(events(), media_type="text/event-stream")


@app.post("/sync/chat")
def sync_chat(question: Question, llm: Model) -> Answer:
    return Answer(text=str(llm.invoke(question.text).content))


@app.post("/sync/chat/stream")
def sync_chat_stream(question: Question, llm: Model, opened: Opened) -> StreamingResponse:
    # If a client disconnects, Starlette leaves a plain generator to the garbage collector, and the model keeps running.
    chunks = opened.enter_context(closing(llm.stream(question.text, stream_usage=True)))
    return StreamingResponse((event(chunk.content) for chunk in chunks), media_type="text/event-stream")


def event(data: object) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
