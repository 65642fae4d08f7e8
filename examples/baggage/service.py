# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A chat service on a ModelForge model. Its middleware identifies the user; its caller identifies the tenant."""

from collections.abc import Awaitable, Callable

from modelforge import ModelForgeRegistry
from opentelemetry import baggage, context

from fastapi import FastAPI, Request, Response

app = FastAPI()
registry = ModelForgeRegistry()


@app.middleware("http")
async def note_user(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add the user to the request's baggage."""
    token = context.attach(baggage.set_baggage("user.id", request.headers["x-user"]))
    try:
        return await call_next(request)
    finally:
        context.detach(token)


@app.post("/titles")
def titles(questions: list[str]) -> list[str]:
    """Give each question a title. FastAPI runs this function in a thread, and `batch` runs each call in another."""
    llm = registry.get_llm(enhanced=False)
    return [str(reply.content) for reply in llm.batch(questions)]
