# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The exporters of the process: those that its providers hold, or that the environment variables name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from logging import getLogger
from threading import Thread
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from opentelemetry.metrics import Instrument, Meter, MeterProvider
from opentelemetry.util.re import parse_env_headers

from ..values import items, mapping
from .distributions import entry_point
from .endpoint import Endpoint, Protocol, Signal
from .environment import otlp_variable, variable

SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")

_OTLP: Final[dict[str, Protocol]] = {
    "opentelemetry.exporter.otlp.proto.grpc": "grpc",
    "opentelemetry.exporter.otlp.proto.http": "http/protobuf",
}
_BY_NAME: Final[dict[str, Protocol]] = {"otlp_proto_grpc": "grpc", "otlp_proto_http": "http/protobuf"}
_DEFAULTS: Final[dict[Protocol, str]] = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}

# Headers that describe the exporter's own requests.
_NOT_COPIED: Final = frozenset(("accept-encoding", "connection", "content-encoding", "content-length", "content-type"))

# Limits of the search for exporters, because a provider also holds its own metrics, resources and locks.
_MOST_OBJECTS: Final = 500
_DEEPEST: Final = 7
_NOT_ENTERED: Final = (str, bytes, int, float, type, FunctionType, MethodType, ModuleType, Thread)


@dataclass(frozen=True, slots=True)
class Exporter:
    """One exporter of a signal."""

    signal: Signal
    name: str
    """The name of its class, or the name in the variable."""
    endpoint: Endpoint | None = None
    """Its destination, if it exports OTLP."""
    fault: str = ""
    """Why its endpoint is not known."""

    @classmethod
    def of_url(
        cls, signal: Signal, name: str, protocol: Protocol, url: str, headers: Mapping[str, str], *, secure: bool | None
    ) -> "Exporter":
        """Return an OTLP exporter.

        :param headers: the exporter's headers; if empty, those in the variables.
        :param secure: whether the connection uses TLS, if the exporter or a variable specifies it.
        """
        headers = headers or _configured_headers(signal)
        try:
            return cls(signal, name, Endpoint.parse(signal, protocol, url, headers, secure=secure))
        except ValueError:
            return cls(signal, name, fault="its endpoint is not a URL with a host")


def api_only(provider: object) -> bool:
    """Return whether a provider is one of the API's own, which record nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs"))


def exporters_of(signal: Signal, provider: object) -> list[Exporter]:
    """Return the exporters that a provider holds or, without an SDK, those that the variables name."""
    if api_only(provider):
        return [_named(signal, name) for name in exporter_names(signal)]
    return [_live(signal, exporter) for exporter in _exporters_in(provider, enter_metrics=signal == "metrics")]


def exporter_names(signal: Signal) -> list[str]:
    """Return the names of the exporters that ``opentelemetry-instrument`` would create."""
    # opentelemetry-distro's default.
    names = variable(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    return [] if names.lower() == "none" else [name.strip() for name in names.split(",")]


def otlp_protocol(signal: Signal) -> str:
    """Return the protocol that the variables name for the exporter ``otlp``, by default gRPC."""
    return otlp_variable(signal, "PROTOCOL") or "grpc"


def _named(signal: Signal, name: str) -> Exporter:
    protocol = cast("Protocol", otlp_protocol(signal)) if name == "otlp" else _BY_NAME.get(name)
    if protocol not in _DEFAULTS or entry_point(f"opentelemetry_{signal}_exporter", name) is None:
        return Exporter(signal, name)
    own = variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    general = variable("OTEL_EXPORTER_OTLP_ENDPOINT") or _DEFAULTS[protocol]
    url = own or (general if protocol == "grpc" else f"{general.rstrip('/')}/v1/{signal}")
    secure = None
    if protocol == "grpc" and not url.startswith("https:"):
        insecure = otlp_variable(signal, "INSECURE")
        secure = insecure.lower() != "true" if insecure else not url.startswith("http:")
    return Exporter.of_url(signal, name, protocol, url, {}, secure=secure)


def _configured_headers(signal: Signal) -> Mapping[str, str]:
    # The warning about a header that cannot be parsed quotes it.
    logger = getLogger("opentelemetry.util.re")
    disabled, logger.disabled = logger.disabled, True
    try:
        return parse_env_headers(otlp_variable(signal, "HEADERS"), liberal=True)
    finally:
        logger.disabled = disabled


def _live(signal: Signal, exporter: Any) -> Exporter:
    name, protocol, url = type(exporter).__name__, _protocol_of(exporter), getattr(exporter, "_endpoint", None)
    if protocol is None or not isinstance(url, str):
        return Exporter(signal, name)
    headers: dict[str, str] = {}
    for owner, attribute in (
        (getattr(exporter, "_session", None), "headers"),
        (getattr(exporter, "_client", None), "_headers"),
        (exporter, "_headers"),
    ):
        headers |= _headers(getattr(owner, attribute, None))
    insecure = getattr(exporter, "_insecure", None)
    secure = not insecure if protocol == "grpc" and isinstance(insecure, bool) else None
    return Exporter.of_url(signal, name, protocol, url, headers, secure=secure)


def _protocol_of(exporter: object) -> Protocol | None:
    # A vendor's exporter is a subclass of OpenTelemetry's.
    modules = [base.__module__ for base in type(exporter).__mro__]
    return next((kind for name, kind in _OTLP.items() if any(module.startswith(name) for module in modules)), None)


def _headers(value: object) -> dict[str, str]:
    pairs = items(value) or mapping(value).items()
    headers = dict(cast("Iterable[tuple[object, object]]", pairs))
    return {str(name): str(text) for name, text in headers.items() if str(name).lower() not in _NOT_COPIED}


def _exporters_in(root: object, *, enter_metrics: bool) -> list[object]:
    """Return the exporters that ``root`` holds, directly or in other objects.

    All attributes are searched, because those of the SDK's processors differ between releases and vendors wrap them.

    :param enter_metrics: whether to search meters. A span exporter has one for its own metrics.
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
                # A wrapper around an exporter does not count as another exporter.
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
