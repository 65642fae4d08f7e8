# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A second service in front of the first. The trace of a request spans both."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi.responses import StreamingResponse

from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    # The model may take any amount of time.
    async with httpx.AsyncClient(base_url=os.environ["CHAT_URL"], timeout=None) as chat:
        yield {"chat": chat}


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: dict[str, str], request: Request) -> Any:
    response = await request.state.chat.post("/chat", json=question)
    return response.raise_for_status().json()


@app.post("/ask/stream")
async def ask_stream(question: dict[str, str], request: Request) -> StreamingResponse:
    async def relay() -> AsyncIterator[bytes]:
        async with request.state.chat.stream("POST", "/chat/stream", json=question) as response:
            async for part in response.aiter_bytes():
                yield part

    return StreamingResponse(relay(), media_type="text/event-stream")
