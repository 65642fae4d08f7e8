# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Run model calls in a vendor's setup, in a separate process, and print the spans as JSON.

``python vendor_setups.py NAME [switched]`` with a name of :data:`SETUPS`; ``switched`` applies the switch from the
documentation. See ``test_vendor_setups.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from support.environment import isolate  # noqa: E402

EXPORTER = InMemorySpanExporter()
PROCESSOR = SimpleSpanProcessor(EXPORTER)


def set_provider() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(PROCESSOR)
    trace.set_tracer_provider(provider)
    return provider


def no_vendor(switched: bool, url: str) -> list[Any]:
    set_provider()
    return []


def langfuse(switched: bool, url: str) -> list[Any]:
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

    Langfuse(public_key="pk-test", secret_key="sk-test", base_url=url, tracer_provider=set_provider())
    return [] if switched else [CallbackHandler()]


def phoenix(switched: bool, url: str) -> list[Any]:
    from phoenix.otel import register

    register(endpoint=f"{url}/v1/traces", auto_instrument=not switched, verbose=False)
    trace.get_tracer_provider().add_span_processor(PROCESSOR)
    return []


def openlit(switched: bool, url: str) -> list[Any]:
    import openlit

    set_provider()
    openlit.init(
        otlp_endpoint=url, disable_metrics=True, disabled_instrumentors=["langchain", "openai"] if switched else None
    )
    return []


def logfire(switched: bool, url: str) -> list[Any]:
    import logfire

    logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[PROCESSOR])
    if not switched:
        logfire.instrument_openai()
    return []


def logfire_run(switched: bool, url: str) -> list[Any]:
    # The launcher has configured Logfire and instrumented what is installed.
    trace.get_tracer_provider().add_span_processor(PROCESSOR)
    return []


def mlflow(switched: bool, url: str) -> list[Any]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{os.environ['HOME']}/mlflow.db")
    set_provider()
    if not switched:
        mlflow.langchain.autolog()
        mlflow.openai.autolog()
    return []


def traceloop(switched: bool, url: str) -> list[Any]:
    from traceloop.sdk import Traceloop
    from traceloop.sdk.instruments import Instruments

    Traceloop.init(
        processor=PROCESSOR,
        telemetry_enabled=False,
        block_instruments={Instruments.LANGCHAIN} if switched else None,
    )
    return []


SETUPS: dict[str, Callable[[bool, str], list[Any]]] = {
    "no vendor": no_vendor,
    "ddtrace": no_vendor,
    "langfuse": langfuse,
    "logfire": logfire,
    "logfire run": logfire_run,
    "mlflow": mlflow,
    "openlit": openlit,
    "phoenix": phoenix,
    "traceloop": traceloop,
}


def vendor_spans() -> list[dict[str, Any]]:
    """Return the spans that a vendor keeps separate from OpenTelemetry."""
    if "ddtrace" in sys.argv:
        return [{"name": span.name, "scope": "ddtrace"} for span in DATADOG]
    if "mlflow" in sys.argv:
        import mlflow

        mlflow.flush_trace_async_logging()
        traces = mlflow.search_traces(return_type="list")
        return [{"name": span.name, "scope": "mlflow"} for found in traces for span in found.data.spans]
    return []


DATADOG: list[Any] = []


def collect_datadog() -> None:
    from ddtrace.trace import TraceFilter, tracer

    class Filter(TraceFilter):
        def process_trace(self, trace: list[Any]) -> None:
            DATADOG.extend(trace)

    tracer.configure(trace_processors=[Filter()])


def main(name: str, *switched: str) -> None:
    isolate()
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
    from support.models import OPENAI_KEY, get_llm, write_config
    from support.providers import ProviderServer

    if name == "ddtrace":
        collect_datadog()
    with ProviderServer() as server:
        callbacks = SETUPS[name](bool(switched), server.url)
        ModelForgeInstrumentor().instrument()
        HTTPXClientInstrumentor().instrument()
        write_config(
            {
                "providers": {
                    "openai": {
                        "llm_type": "openai_compatible",
                        "base_url": f"{server.url}/v1",
                        "auth_strategy": "api_key",
                        "auth_data": {"api_key": OPENAI_KEY},
                        "models": {"gpt-4o-mini": {}},
                    }
                }
            }
        )
        from modelforge import ModelForgeRegistry

        llm = get_llm(ModelForgeRegistry(), "openai", "gpt-4o-mini")
        config: Any = {"callbacks": callbacks}

        async def astream() -> None:
            async for _ in llm.astream("Hi", config, stream_usage=True):
                pass

        ways: dict[str, Callable[[], object]] = {
            "invoke": lambda: llm.invoke("Hi", config),
            "ainvoke": lambda: asyncio.run(llm.ainvoke("Hi", config)),
            "stream": lambda: list(llm.stream("Hi", config, stream_usage=True)),
            "astream": lambda: asyncio.run(astream()),
        }
        recorded = {}
        for way, call in ways.items():
            EXPORTER.clear()
            with trace.get_tracer("caller").start_as_current_span("caller"):
                call()
            recorded[way] = [
                {
                    "name": span.name,
                    "scope": span.instrumentation_scope.name,
                    "id": span.context.span_id,
                    "parent": span.parent and span.parent.span_id,
                    "tokens": span.attributes.get("gen_ai.usage.input_tokens"),
                    "kind": span.attributes.get("openinference.span.kind"),
                }
                for span in EXPORTER.get_finished_spans()
            ]
        print(json.dumps({"ways": recorded, "vendor": vendor_spans()}), flush=True)
    # This skips the exporters' last attempts.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
