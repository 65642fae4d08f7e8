# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A chat service in Flask whose streams start in the view or later."""

from __future__ import annotations

import os
from collections.abc import Iterator

from flask import Flask, Response, stream_with_context
from modelforge import ModelForgeRegistry

app = Flask(__name__)
if os.environ.get("MIDDLEWARE"):
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)
llm = ModelForgeRegistry().get_llm(enhanced=False)


def late() -> Iterator[str]:
    for chunk in llm.stream("Hi"):
        yield chunk.content


@app.post("/view")
def view() -> Response:
    return Response(chunk.content for chunk in llm.stream("Hi"))


@app.post("/late")
def late_view() -> Response:
    return Response(late())


@app.post("/with-context")
def with_context() -> Response:
    return Response(stream_with_context(late()))
