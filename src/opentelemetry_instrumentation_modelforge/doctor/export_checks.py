# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The checks of sampling, and of the exporters and their endpoints."""

import re
from collections import Counter
from typing import Final

from .environment import variable
from .exporters import Exporter, api_only
from .finding import Finding, State, ok, problem, warning
from .process import Process

_RATIO: Final = re.compile(r"TraceIdRatioBased\{([0-9.eE+-]+)\}")
_ROOT: Final = re.compile(r"ParentBased\{root:(.*?),remoteParentSampled")


def sampler(process: Process) -> Finding:
    """Find which traces the sampler keeps."""
    provider = process.providers["traces"]
    # Logfire's provider is a proxy for the SDK's.
    found = getattr(getattr(provider, "provider", provider), "sampler", None)
    if found is None:
        name = variable("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
        detail = name if api_only(provider) else "not known: the tracer provider does not report it"
        return ok(detail, data={"description": name if api_only(provider) else None})
    description = str(found.get_description())
    root = match[1] if (match := _ROOT.match(description)) else description
    match = _RATIO.search(root)
    ratio = float(match[1]) if match else float(root != "AlwaysOffSampler")
    data: dict[str, object] = {"description": description}
    remedy = "export OTEL_TRACES_SAMPLER=parentbased_always_on"
    if ratio == 0:
        return problem(f"{root} keeps no trace that begins in this process", remedy, data)
    if ratio < 1:
        return warning(f"{root} keeps {ratio:.4g} of the traces that begin in this process", remedy, data)
    note = "" if root == description else "; a caller's traceparent decides for its own traces"
    return ok(root + note, data=data)


def exporters(process: Process) -> Finding:
    """Find where spans, metrics and events go, and whether each endpoint accepts them."""
    if process.vendor_launcher is not None and api_only(process.providers["traces"]):
        return ok("not checked, because no exporter is in place", data={"exporters": []})
    answers = [(exporter, _answer(process, exporter)) for exporter in process.exporters]
    signals: dict[str, list[str]] = {}
    for exporter, answer in answers:
        signals.setdefault(_text(exporter, answer), []).append(exporter.signal)
    lines = [f"{', '.join(dict.fromkeys(names))}: {text}" for text, names in signals.items()]
    remedies = [answer.remedy for _, answer in answers if answer.remedy]
    traces = [(exporter, answer.state) for exporter, answer in answers if exporter.signal == "traces"]
    if not traces:
        setting = variable("OTEL_TRACES_EXPORTER")
        lines.insert(0, "spans are recorded, but no exporter takes them")
        remedies.insert(0, "Add a span exporter to the tracer provider.")
        if setting.lower() == "none" or process.launched:
            lines[0] += f": OTEL_TRACES_EXPORTER is {setting or 'not set'}"
            remedies[0] = "export OTEL_TRACES_EXPORTER=otlp"
    targets = Counter(exporter.endpoint.url if exporter.endpoint else exporter.name for exporter, _ in traces)
    if twice := [target for target, count in targets.items() if count > 1]:
        lines.append(f"two exporters send the same spans to {', '.join(twice)}")
        remedies.append("Keep one: opentelemetry-instrument has added its own to the provider.")
    if all(state is State.PROBLEM for _, state in traces):
        state = State.PROBLEM
    elif twice or any(answer.state is not State.OK for _, answer in answers):
        # Other signals can fail while spans arrive.
        state = State.WARNING
    else:
        state = State.OK
    rows = [
        {
            "signal": exporter.signal,
            "exporter": exporter.name,
            "endpoint": exporter.endpoint.url if exporter.endpoint else None,
            "protocol": exporter.endpoint.protocol if exporter.endpoint else None,
            "state": answer.state.value,
            "answer": answer.detail,
        }
        for exporter, answer in answers
    ]
    return Finding(state, "\n".join(lines), "\n".join(dict.fromkeys(remedies)), {"exporters": rows})


def _answer(process: Process, exporter: Exporter) -> Finding:
    if exporter.fault:
        return problem(exporter.fault, "Set OTEL_EXPORTER_OTLP_ENDPOINT to a URL.")
    return process.probes[exporter.endpoint].answer() if exporter.endpoint else ok("")


def _text(exporter: Exporter, answer: Finding) -> str:
    if exporter.endpoint is None:
        return f"{exporter.name}: {answer.detail}" if answer.detail else exporter.name
    name = "OTLP/gRPC" if exporter.endpoint.protocol == "grpc" else "OTLP/HTTP"
    return f"{name} to {exporter.endpoint}: {answer.detail}"
