# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The service of ``flask_app`` in Django, for WSGI and ASGI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path
from modelforge import ModelForgeRegistry

llm = ModelForgeRegistry().get_llm(enhanced=False)


def late() -> Iterator[str]:
    for chunk in llm.stream("Hi"):
        yield chunk.content


async def alate() -> AsyncIterator[str]:
    async for chunk in llm.astream("Hi"):
        yield chunk.content


def view(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(chunk.content for chunk in llm.stream("Hi"))


def late_view(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(late())


async def aview(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(chunk.content async for chunk in llm.astream("Hi"))


async def alate_view(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(alate())


urlpatterns = [path("view", view), path("late", late_view), path("async/view", aview), path("async/late", alate_view)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()

if os.environ.get("MIDDLEWARE"):
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as ASGIMiddleware
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WSGIMiddleware

    asgi, wsgi = ASGIMiddleware(asgi), WSGIMiddleware(wsgi)
