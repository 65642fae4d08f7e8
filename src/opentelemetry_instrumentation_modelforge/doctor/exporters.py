# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The exporters of the process, as its providers hold them or as the environment variables name them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from threading import Thread
from types import FunctionType, MethodType, ModuleType
from typing import Final, cast

from opentelemetry.metrics import Instrument, Meter, MeterProvider
from opentelemetry.util.re import parse_env_headers

from ..values import items, mapping
from .distributions import entry_point
from .endpoint import Endpoint, Protocol, Signal
from .environment import variable

SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")

_OTLP: Final[dict[str, Protocol]] = {
    "opentelemetry.exporter.otlp.proto.grpc": "grpc",
    "opentelemetry.exporter.otlp.proto.http": "http/protobuf",
}
_BY_NAME: Final[dict[str, Protocol]] = {"otlp_proto_grpc": "grpc", "otlp_proto_http": "http/protobuf"}
_DEFAULTS: Final[dict[Protocol, str]] = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}

# They describe the exporter's own requests.
_NOT_COPIED: Final = frozenset(("accept-encoding", "connection", "content-encoding", "content-length", "content-type"))

_MALFORMED: Final = "its endpoint is not a URL with a host"

# Beside processors and exporters, a provider holds what it measures itself with, and much else.
_MOST_OBJECTS: Final = 500
_DEEPEST: Final = 7
_NOT_ENTERED: Final = (str, bytes, int, float, type, FunctionType, MethodType, ModuleType, Thread)


@dataclass(frozen=True, slots=True)
class Exporter:
    """One exporter of a signal."""

    signal: Signal
    name: str
    """Its class, or the name in the variable."""
    endpoint: Endpoint | None = None
    """Where it sends, if that is OTLP."""
    fault: str = ""
    """Why its endpoint is not known."""


def api_only(provider: object) -> bool:
    """Return whether a provider is the API's own, which records nothing: no SDK is set up."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs"))


def live_exporters(signal: Signal, provider: object) -> list[Exporter]:
    """Return the exporters that a provider holds, inside of whatever processors and wrappers."""
    found: list[Exporter] = []
    for exporter in _exporters_in(provider, enter_metrics=signal == "metrics"):
        name = type(exporter).__name__
        protocol = _protocol_of(exporter)
        try:
            found.append(Exporter(signal, name, _endpoint_of(signal, protocol, exporter) if protocol else None))
        except ValueError:
            found.append(Exporter(signal, name, fault=_MALFORMED))
    return found


def named_exporters(signal: Signal) -> list[Exporter]:
    """Return the exporters that ``opentelemetry-instrument`` would make by the variables."""
    # opentelemetry-distro's default.
    names = variable(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    if names.lower() == "none":
        return []
    return [_named(signal, name.strip()) for name in names.split(",")]


def otlp_protocol(signal: Signal) -> str:
    """Return the protocol that the variables name for the exporter ``otlp``, by default gRPC."""
    general = variable("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    return variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or general


def _named(signal: Signal, name: str) -> Exporter:
    protocol = cast("Protocol", otlp_protocol(signal)) if name == "otlp" else _BY_NAME.get(name)
    if protocol not in _DEFAULTS or entry_point(f"opentelemetry_{signal}_exporter", name) is None:
        return Exporter(signal, name)
    own = variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    general = variable("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULTS[protocol]
    url = own or (general if protocol == "grpc" else f"{general.rstrip('/')}/v1/{signal}")
    secure = None
    if protocol == "grpc" and not url.startswith("https:"):
        insecure = variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE") or variable("OTEL_EXPORTER_OTLP_INSECURE")
        secure = insecure.lower() != "true" if insecure else not url.startswith("http:")
    try:
        endpoint = Endpoint.parse(signal, protocol, url, _headers_in_variables(signal), secure=secure)
    except ValueError:
        return Exporter(signal, name, fault=_MALFORMED)
    return Exporter(signal, name, endpoint)


def exporters_of(signal: Signal, provider: object) -> list[Exporter]:
    """Return the exporters of a signal: those in place, or without an SDK those that the variables name."""
    return named_exporters(signal) if api_only(provider) else live_exporters(signal, provider)


def _headers_in_variables(signal: Signal) -> dict[str, str]:
    text = variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS") or variable("OTEL_EXPORTER_OTLP_HEADERS")
    return dict(parse_env_headers(text, liberal=True))


def _protocol_of(exporter: object) -> Protocol | None:
    # A vendor's exporter is a subclass of OpenTelemetry's.
    modules = [base.__module__ for base in type(exporter).__mro__]
    return next((kind for name, kind in _OTLP.items() if any(module.startswith(name) for module in modules)), None)


def _endpoint_of(signal: Signal, protocol: Protocol, exporter: object) -> Endpoint | None:
    url = getattr(exporter, "_endpoint", None)
    if not isinstance(url, str):
        return None
    headers: dict[str, str] = {}
    for owner, name in ((exporter, "_session"), (exporter, "_client"), (exporter, None)):
        holder = getattr(owner, name, None) if name else owner
        headers |= _headers(getattr(holder, "headers" if name == "_session" else "_headers", None))
    insecure = getattr(exporter, "_insecure", None)
    secure = not insecure if protocol == "grpc" and isinstance(insecure, bool) else None
    return Endpoint.parse(signal, protocol, url, headers or _headers_in_variables(signal), secure=secure)


def _headers(value: object) -> dict[str, str]:
    pairs = items(value) or mapping(value).items()
    headers = dict(cast("Iterable[tuple[object, object]]", pairs))
    return {str(name): str(text) for name, text in headers.items() if str(name).lower() not in _NOT_COPIED}


def _exporters_in(root: object, *, enter_metrics: bool) -> list[object]:
    """Return the objects below ``root`` that export.

    The attributes of the SDK's processors differ from release to release, and vendors wrap them.

    :param enter_metrics: whether to look into meters; a span exporter has one to measure itself.
    """
    found: list[object] = []
    seen: set[int] = {id(root)}
    level = list(_members(root))
    for _ in range(_DEEPEST):
        below: list[object] = []
        for item in level:
            if id(item) in seen or isinstance(item, _NOT_ENTERED) or len(seen) > _MOST_OBJECTS:
                continue
            if not enter_metrics and isinstance(item, (Instrument, Meter, MeterProvider)):
                continue
            seen.add(id(item))
            if not callable(getattr(type(item), "export", None)):
                below.extend(_members(item))
            else:
                # A wrapper around an exporter is none of its own.
                inner = [] if _protocol_of(item) else _exporters_in(item, enter_metrics=enter_metrics)
                found.extend(inner or [item])
        level = below
    return found


def _members(item: object) -> Iterator[object]:
    if isinstance(item, Mapping):
        yield from islice(cast("Mapping[object, object]", item).values(), _MOST_OBJECTS)
    elif isinstance(item, list | tuple | set | frozenset):
        yield from islice(cast("list[object]", item), _MOST_OBJECTS)
    else:
        yield from list(getattr(item, "__dict__", {}).values())
