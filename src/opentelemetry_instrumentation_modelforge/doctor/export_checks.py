"""The checks of what happens to a span once it is recorded: sampling, and the exporters with their endpoints."""

import re
from collections import Counter
from typing import Final

from .exporters import SIGNALS, Exporter, api_only, exporters_of
from .endpoint import Answer, Endpoint, Probe
from .finding import Finding, State, ok, problem, warning
from .process import Process, variable

_RATIO: Final = re.compile(r"TraceIdRatioBased\{([0-9.eE+-]+)\}")
_ROOT: Final = re.compile(r"ParentBased\{root:(.*?),remoteParentSampled")


class Probes:
    """The endpoints of all exporters, each asked once and at the same time."""

    def __init__(self, process: Process) -> None:
        self.exporters: list[Exporter] = [exporter for signal in SIGNALS for exporter in exporters_of(process, signal)]
        endpoints = [exporter.endpoint for exporter in self.exporters if exporter.endpoint is not None]
        self._probes: dict[str, Probe] = {}
        for endpoint in endpoints:
            if _key(endpoint) not in self._probes:
                self._probes[_key(endpoint)] = Probe(endpoint)

    def answer(self, endpoint: Endpoint) -> Answer:
        """Return what an endpoint answered."""
        return self._probes[_key(endpoint)].answer()


def _key(endpoint: Endpoint) -> str:
    return f"{endpoint.signal} {endpoint.protocol} {endpoint}"


def sampler(process: Process) -> Finding:
    """Return which traces the sampler keeps."""
    found = getattr(process.providers["traces"], "sampler", None)
    if api_only(process.providers["traces"]) or found is None:
        name = variable("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
        return ok(f"{name} (by OTEL_TRACES_SAMPLER)", description=name)
    description = str(found.get_description())
    root = match[1] if (match := _ROOT.match(description)) else description
    ratio = match[1] if (match := _RATIO.search(root)) else None
    data = {"description": description}
    remedy = "export OTEL_TRACES_SAMPLER=parentbased_always_on"
    if root == "AlwaysOffSampler" or (ratio is not None and float(ratio) == 0):
        return problem(f"{root} keeps no trace that begins in this process", remedy, **data)
    if ratio is not None and float(ratio) < 1:
        return warning(f"{root} keeps {float(ratio):.4g} of the traces that begin in this process", remedy, **data)
    if root != description:
        return ok(f"{root}; a caller's traceparent decides for its own traces", **data)
    return ok(root, **data)


def exporters(probes: Probes) -> Finding:
    """Return where spans, metrics and events go, and whether each endpoint takes them."""
    lines: list[str] = []
    remedies: list[str] = []
    rows: list[dict[str, object]] = []
    states: dict[str, list[State]] = {signal: [] for signal in SIGNALS}
    for exporter in probes.exporters:
        answer = probes.answer(exporter.endpoint) if exporter.endpoint is not None else Answer(State.OK, "")
        states[exporter.signal].append(answer.state)
        where = f" to {exporter.endpoint} ({exporter.endpoint.protocol})" if exporter.endpoint is not None else ""
        lines.append(f"{exporter.signal}: {exporter.name}{where}" + (f": {answer.text}" if answer.text else ""))
        if answer.remedy:
            remedies.append(answer.remedy)
        rows.append(
            {
                "signal": exporter.signal,
                "exporter": exporter.name,
                "endpoint": str(exporter.endpoint) if exporter.endpoint is not None else None,
                "protocol": exporter.endpoint.protocol if exporter.endpoint is not None else None,
                "state": answer.state.value,
                "answer": answer.text,
            }
        )
    if not states["traces"]:
        lines.insert(0, "spans are recorded, but no exporter takes them")
        setting = variable("OTEL_TRACES_EXPORTER")
        remedies.insert(0, "export OTEL_TRACES_EXPORTER=otlp" + (f" (it is {setting})" if setting else ""))
    twice = _sent_twice(probes.exporters)
    if twice:
        lines.append(f"two exporters send the same spans to {', '.join(twice)}")
        remedies.append("Keep one: opentelemetry-instrument has added its own to the provider.")
    detail, remedy = "\n".join(lines), "\n".join(dict.fromkeys(remedies))
    of_traces = states["traces"]
    if all(state is State.PROBLEM for state in of_traces):
        return problem(detail, remedy, exporters=rows)
    # Other signals can fail while spans arrive.
    if twice or any(state is not State.OK for found in states.values() for state in found):
        return warning(detail, remedy, exporters=rows)
    return ok(detail, remedy, exporters=rows)


def _sent_twice(exporters: list[Exporter]) -> list[str]:
    targets = Counter(
        str(exporter.endpoint or exporter.name) for exporter in exporters if exporter.signal == "traces"
    )
    return [target for target, count in targets.items() if count > 1]
