# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The service of ``flask_app`` in aiohttp, started with ``python aiohttp_app.py PORT``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import web
from modelforge import ModelForgeRegistry

llm = ModelForgeRegistry().get_llm(enhanced=False)


async def late() -> AsyncIterator[str]:
    async for chunk in llm.astream("Hi"):
        yield chunk.content


async def written(request: web.Request) -> web.StreamResponse:
    """Write the answer in the handler, while the request's span is current."""
    response = web.StreamResponse()
    await response.prepare(request)
    async for text in late():
        await response.write(text.encode())
    return response


async def body(request: web.Request) -> web.Response:
    """Return a generator, which aiohttp reads after the handler."""
    return web.Response(body=(chunk.content.encode() async for chunk in llm.astream("Hi")))


async def late_body(request: web.Request) -> web.Response:
    return web.Response(body=(text.encode() async for text in late()))


app = web.Application()
app.add_routes([web.post("/written", written), web.post("/view", body), web.post("/late", late_body)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
