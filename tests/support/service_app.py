# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The FastAPI example, with additional routes for the tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from app import Answer, Model, Question, app, registry
from opentelemetry import trace

from fastapi import FastAPI

__all__ = ["app"]

# It is created when the module is imported, which is before the fork under a server that preloads it.
imported = registry.get_llm(enhanced=False)


@app.post("/imported/chat")
async def imported_chat(question: Question) -> Answer:
    return Answer(text=str((await imported.ainvoke(question.text)).content))


@app.post("/imported/sync/chat")
def imported_sync_chat(question: Question) -> Answer:
    return Answer(text=str(imported.invoke(question.text).content))


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


try:
    from fastapi.sse import EventSourceResponse
except ImportError:  # FastAPI before 0.135
    pass
else:

    @app.post("/native/chat/stream", response_class=EventSourceResponse)
    async def native_chat_stream(question: Question, llm: Model) -> AsyncIterator[Any]:
        async for chunk in llm.astream(question.text):
            yield chunk.content

    @app.post("/native/sync/chat/stream", response_class=EventSourceResponse)
    def native_sync_chat_stream(question: Question, llm: Model) -> Iterator[Any]:
        for chunk in llm.stream(question.text):
            yield chunk.content


@asynccontextmanager
async def flushing(app: FastAPI) -> AsyncIterator[None]:
    """Export the rest when the service ends, because the signal ends uvicorn without running `atexit`."""
    yield
    trace.get_tracer_provider().force_flush()  # pyright: ignore[reportAttributeAccessIssue]


app.router.lifespan_context = flushing
