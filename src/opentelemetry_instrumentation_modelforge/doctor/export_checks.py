# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The checks of what happens to a span once it is recorded: sampling, and the exporters with their endpoints."""

import re
from collections import Counter
from typing import Final

from .endpoint import Answer
from .environment import variable
from .exporters import SIGNALS, Exporter, api_only
from .finding import Finding, State, ok, problem, warning
from .process import Process

_RATIO: Final = re.compile(r"TraceIdRatioBased\{([0-9.eE+-]+)\}")
_ROOT: Final = re.compile(r"ParentBased\{root:(.*?),remoteParentSampled")


def sampler(process: Process) -> Finding:
    """Return which traces the sampler keeps."""
    provider = process.providers["traces"]
    # Logfire's is a proxy.
    found = getattr(getattr(provider, "provider", provider), "sampler", None)
    if found is None:
        name = variable("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
        detail = name if api_only(provider) else "not known: the tracer provider does not tell"
        return ok(detail, data={"description": name if api_only(provider) else None})
    description = str(found.get_description())
    root = match[1] if (match := _ROOT.match(description)) else description
    ratio = match[1] if (match := _RATIO.search(root)) else None
    data: dict[str, object] = {"description": description}
    remedy = "export OTEL_TRACES_SAMPLER=parentbased_always_on"
    if root == "AlwaysOffSampler" or (ratio is not None and float(ratio) == 0):
        return problem(f"{root} keeps no trace that begins in this process", remedy, data=data)
    if ratio is not None and float(ratio) < 1:
        return warning(f"{root} keeps {float(ratio):.4g} of the traces that begin in this process", remedy, data=data)
    if root != description:
        return ok(f"{root}; a caller's traceparent decides for its own traces", data=data)
    return ok(root, data=data)


def exporters(process: Process) -> Finding:
    """Return where spans, metrics and events go, and whether each endpoint takes them."""
    if process.vendor_launcher is not None and api_only(process.providers["traces"]):
        return ok("not checked, because no exporter is in place", data={"exporters": []})
    remedies: list[str] = []
    rows: list[dict[str, object]] = []
    states: dict[str, list[State]] = {signal: [] for signal in SIGNALS}
    by_text: dict[str, list[str]] = {}
    for exporter in process.exporters:
        endpoint = exporter.endpoint
        answer = _answer(process, exporter)
        states[exporter.signal].append(answer.state)
        by_text.setdefault(_text(exporter, answer), []).append(exporter.signal)
        if answer.remedy:
            remedies.append(answer.remedy)
        rows.append(
            {
                "signal": exporter.signal,
                "exporter": exporter.name,
                "endpoint": endpoint.url if endpoint is not None else None,
                "protocol": endpoint.protocol if endpoint is not None else None,
                "state": answer.state.value,
                "answer": answer.text,
            }
        )
    lines = [f"{', '.join(dict.fromkeys(signals))}: {text}" for text, signals in by_text.items()]
    if not states["traces"]:
        lines.insert(0, "spans are recorded, but no exporter takes them")
        setting = variable("OTEL_TRACES_EXPORTER")
        remedies.insert(0, "Add a span exporter to the tracer provider.")
        if setting.lower() == "none" or process.launched:
            lines[0] += f": OTEL_TRACES_EXPORTER is {setting or 'not set'}"
            remedies[0] = "export OTEL_TRACES_EXPORTER=otlp"
    twice = _sent_twice(process.exporters)
    if twice:
        lines.append(f"two exporters send the same spans to {', '.join(twice)}")
        remedies.append("Keep one: opentelemetry-instrument has added its own to the provider.")
    detail, remedy = "\n".join(lines), "\n".join(dict.fromkeys(remedies))
    of_traces = states["traces"]
    if all(state is State.PROBLEM for state in of_traces):
        return problem(detail, remedy, data={"exporters": rows})
    # Other signals can fail while spans arrive.
    if twice or any(state is not State.OK for found in states.values() for state in found):
        return warning(detail, remedy, data={"exporters": rows})
    return ok(detail, remedy, data={"exporters": rows})


def _answer(process: Process, exporter: Exporter) -> Answer:
    if exporter.fault:
        return Answer(State.PROBLEM, exporter.fault, "Set OTEL_EXPORTER_OTLP_ENDPOINT to a URL.")
    return process.probes[exporter.endpoint].answer() if exporter.endpoint is not None else Answer(State.OK, "")


def _text(exporter: Exporter, answer: Answer) -> str:
    if exporter.endpoint is None:
        return f"{exporter.name}: {answer.text}" if answer.text else exporter.name
    name = "OTLP/gRPC" if exporter.endpoint.protocol == "grpc" else "OTLP/HTTP"
    return f"{name} to {exporter.endpoint}: {answer.text}"


def _sent_twice(exporters: list[Exporter]) -> list[str]:
    targets = Counter(
        exporter.endpoint.url if exporter.endpoint is not None else exporter.name
        for exporter in exporters
        if exporter.signal == "traces"
    )
    return [target for target, count in targets.items() if count > 1]
