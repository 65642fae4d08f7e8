# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The quickstart's application with Datadog's tracer behind OpenTelemetry's API, followed by a call that fails."""

import contextlib

import app
from ddtrace.opentelemetry import TracerProvider
from modelforge import ModelForgeRegistry
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

trace.set_tracer_provider(TracerProvider())
HTTPXClientInstrumentor().instrument()
ModelForgeInstrumentor().instrument()

app.main()
with contextlib.suppress(TypeError):
    # An argument that cannot be serialized as JSON fails before anything is sent.
    ModelForgeRegistry().get_llm(enhanced=False).invoke("Why?", user=object())
