# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Other instrumentations that create a span for each model call, and how to switch them off."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .distributions import installed
from .environment import is_true, variable
from .finding import Finding, ok, warning
from .process import DISABLED_INSTRUMENTATIONS, Process


@dataclass(frozen=True, slots=True)
class Instrumentor:
    """An instrumentation that ``opentelemetry-instrument`` loads by its entry point."""

    distribution: str
    project: str
    entry_point: str
    span: str
    """The name of its span for a model call; empty if it creates no second span."""


_INSTRUMENTORS: Final = (
    Instrumentor("opentelemetry-instrumentation-langchain", "OpenLLMetry", "langchain", "ChatOpenAI.chat"),
    Instrumentor("openinference-instrumentation-langchain", "OpenInference", "langchain", "ChatOpenAI"),
    Instrumentor("openinference-instrumentation-openai", "OpenInference", "openai", "ChatCompletion"),
    Instrumentor("opentelemetry-instrumentation-openai", "OpenLLMetry", "openai", ""),
    Instrumentor("opentelemetry-instrumentation-genai-openai", "OpenTelemetry", "openai", ""),
)
_DISABLE: Final = f"export {DISABLED_INSTRUMENTATIONS}="
_GENAI_LANGCHAIN: Final = "opentelemetry-instrumentation-genai-langchain"

_CALLED_IN_CODE: Final = {
    "openlit": ("openlit.init()", 'openlit.init(disabled_instrumentors=["langchain", "openai"])'),
    "traceloop-sdk": ("Traceloop.init()", "Traceloop.init(block_instruments={Instruments.LANGCHAIN})"),
    "logfire": ("logfire.instrument_openai()", "leave that call out"),
    "mlflow": ("mlflow.autolog()", "mlflow.langchain.autolog(disable=True), mlflow.openai.autolog(disable=True)"),
    "langfuse": ("Langfuse's CallbackHandler", "leave the handler out"),
    "arize-phoenix-otel": ("phoenix.otel.register(auto_instrument=True)", "register(auto_instrument=False)"),
}
"""Calls in an application that lead to second spans, by distribution, each with the alternative."""


def second_spans(process: Process) -> Finding:
    """Find the instrumentations that create second spans, and how to switch them off."""
    certain = list(_certain(process))
    notes = [f"with {call}: {switch}" for name, (call, switch) in _CALLED_IN_CODE.items() if name in installed()]
    if _GENAI_LANGCHAIN in installed() and not process.is_disabled("langchain"):
        notes.append(f"{_GENAI_LANGCHAIN} creates the span of a call (chat …), and ours adds its attributes to it")
    data: dict[str, object] = {"second_spans": [detail for detail, _ in certain], "possible": notes}
    lines = [*(detail for detail, _ in certain), *notes]
    if certain:
        switches = [switch for _, switch in certain if not switch.startswith(_DISABLE)]
        names = [switch.removeprefix(_DISABLE) for _, switch in certain if switch.startswith(_DISABLE)]
        if names:
            names = list(dict.fromkeys([*process.disabled_instrumentations, *names]))
            switches.insert(0, f"{_DISABLE}{','.join(names)}")
        return warning("\n".join(lines), "\n".join(switches), data=data)
    if notes:
        return ok("\n".join(("one span for each call; if the application has more of them,", *notes)), data=data)
    return ok("one span for each call", data=data)


def _certain(process: Process) -> Iterator[tuple[str, str]]:
    """Yield each instrumentation that creates second spans in this process, and the setting that switches it off."""
    for other in _INSTRUMENTORS:
        if other.span and _is_loaded(process, other):
            detail = f"{other.project}'s {other.distribution} makes a second span ({other.span}) for each call"
            yield detail, f"{_DISABLE}{other.entry_point}"
    tracing = is_true("LANGSMITH_TRACING") or is_true("LANGSMITH_TRACING_V2") or is_true("LANGCHAIN_TRACING_V2")
    if tracing and (
        variable("LANGSMITH_TRACING_MODE") in ("otel", "hybrid")
        or is_true("LANGSMITH_OTEL_ENABLED")
        or is_true("LANGSMITH_OTEL_ONLY")
    ):
        yield "LangSmith makes a second span for each call", "export LANGSMITH_TRACING_MODE=langsmith"
    if process.vendor_launcher == "ddtrace-run" or "ddtrace.auto" in sys.modules:
        for integration in ("LangChain", "OpenAI"):
            name = f"DD_TRACE_{integration.upper()}_ENABLED"
            if variable(name).lower() not in ("false", "0"):
                yield (
                    f"Datadog's integration of {integration} makes a second span for each call",
                    f"export {name}=false",
                )


def _is_loaded(process: Process, other: Instrumentor) -> bool:
    """Return whether an instrumentation is in place here, or would be with ``opentelemetry-instrument``."""
    distribution = installed().get(other.distribution)
    if distribution is None or process.is_disabled(other.entry_point):
        return False
    modules = {point.module for point in distribution.entry_points if point.group == "opentelemetry_instrumentor"}
    by_launcher = process.launched or not (process.instrumented or process.vendor_launcher)
    return by_launcher or not modules.isdisjoint(sys.modules)
