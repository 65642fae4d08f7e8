# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP endpoint: asking whether something listens there and speaks the protocol.

What is sent is a request without spans, with the headers of the exporter, as the OTLP specification has it
(https://opentelemetry.io/docs/specs/otlp/). A receiver accepts it and stores nothing.
"""

import http.client
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Thread
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from opentelemetry.instrumentation.utils import suppress_instrumentation

from .environment import variable
from .finding import State

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["traces", "metrics", "logs"]

TIMEOUT: Final = 2.0
"""Seconds in which an endpoint has to answer."""

_SERVICES: Final = {
    "traces": "trace.v1.TraceService",
    "metrics": "metrics.v1.MetricsService",
    "logs": "logs.v1.LogsService",
}
_PORTS: Final[dict[Protocol, int]] = {"grpc": 4317, "http/protobuf": 4318}
_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface of an HTTP/2 connection with empty settings (RFC 9113, section 3.4)."""
_HTTP1_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_SETTINGS_FRAME: Final = 4
_TLS_ALERT: Final = 0x15


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered."""

    state: State
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an OTLP exporter sends one signal."""

    signal: Signal
    protocol: Protocol
    secure: bool
    host: str
    port: int
    path: str = ""
    query: str = field(default="", repr=False)
    """It may hold a key."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

    @classmethod
    def parse(
        cls, signal: Signal, protocol: Protocol, url: str, headers: Mapping[str, str], *, secure: bool | None = None
    ) -> "Endpoint":
        """Return the endpoint of a URL, or of gRPC's ``host:port``.

        :param secure: whether the connection uses TLS, if the exporter says so.
        :raises ValueError: for a URL without a host, or with a port that is not a number.
        """
        parts = urlsplit(url if "//" in url else f"//{url}")
        if not parts.hostname:
            raise ValueError("a URL has no host")
        tls = parts.scheme == "https" if secure is None else secure
        port = parts.port or (443 if tls else 80 if protocol != "grpc" else 443)
        if parts.username is not None and protocol != "grpc":
            # As the exporter's HTTP client does; an exporter's own header counts more.
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers = {"authorization": f"Basic {b64encode(pair).decode()}", **headers}
        return cls(signal, protocol, tls, parts.hostname, port, parts.path or "/", parts.query, headers)

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.target}"

    @property
    def target(self) -> str:
        """The host and the port."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL without user information, query and fragment."""
        return str(self) if self.protocol == "grpc" else f"{self}{self.path}"


class Probe:
    """A question to an endpoint, asked in a thread of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._deadline = monotonic() + TIMEOUT
        self._answer: Answer | None = None
        # A look-up of a name has no time limit; a daemon is left behind at exit.
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def answer(self) -> Answer:
        """Wait for the answer, at most a second longer than the endpoint has time."""
        self._thread.join(max(0.0, self._deadline + 1 - monotonic()))
        return self._answer or _problem(f"no answer within {TIMEOUT:.0f} s")

    def _run(self) -> None:
        # The probe is no request of the application.
        with suppress_instrumentation():
            try:
                self._answer = self._ask()
            except Exception as error:  # noqa: BLE001 - any fault of the transport is an answer.
                self._answer = _problem(f"not reachable: {_reason(error)}")

    def _ask(self) -> Answer:
        if (proxy := self._proxy) is not None:
            return Answer(State.OK, f"not asked, because requests go through {proxy}")
        try:
            self._connect().close()
        except ConnectionRefusedError:
            return _problem("nothing listens there", "Start the collector, or set OTEL_EXPORTER_OTLP_ENDPOINT.")
        except socket.gaierror:
            return _problem(f"the host {self.endpoint.host} is not known", "Set OTEL_EXPORTER_OTLP_ENDPOINT.")
        except TimeoutError:
            return _problem(f"no connection within {TIMEOUT:.0f} s", "Set OTEL_EXPORTER_OTLP_ENDPOINT.")
        return self._ask_grpc() if self.endpoint.protocol == "grpc" else self._ask_http()

    @property
    def _left(self) -> float:
        return max(0.05, self._deadline - monotonic())

    def _connect(self) -> socket.socket:
        return socket.create_connection((self.endpoint.host, self.endpoint.port), self._left)

    @cached_property
    def _proxy(self) -> str | None:
        """The variable that names the proxy of this endpoint; a proxy itself may hold credentials."""
        scheme = "https" if self.endpoint.secure else "http"
        if scheme not in getproxies() or proxy_bypass(self.endpoint.host):
            return None
        return f"the proxy in {scheme}_proxy"

    # --- OTLP/HTTP ---

    def _ask_http(self) -> Answer:
        endpoint = self.endpoint
        if endpoint.secure:
            connection = http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=self._left, context=_tls_context(endpoint.signal)
            )
        else:
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=self._left)
        try:
            headers = {**endpoint.headers, "Content-Type": "application/x-protobuf"}
            target = f"{endpoint.path}?{endpoint.query}" if endpoint.query else endpoint.path
            connection.request("POST", target, b"", headers)
            response = connection.getresponse()
            return self._http_answer(response.status, response.read(1024))
        except ssl.SSLCertVerificationError as error:
            return _problem(
                f"its certificate is not trusted: {error.verify_message}",
                "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of its certificate authority.",
            )
        except ssl.SSLError:
            return _problem("does not speak TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with http://.")
        except TimeoutError:
            return _problem(f"no answer within {TIMEOUT:.0f} s", "Check that this is the port of an OTLP receiver.")
        except (http.client.HTTPException, ConnectionError):
            return self._wrong_protocol()
        finally:
            connection.close()

    def _http_answer(self, status: int, body: bytes) -> Answer:
        if status < 300:
            return Answer(State.OK, "accepts OTLP")
        if status in (401, 403):
            return _unauthorized(f"HTTP {status}")
        if status in (404, 405, 501):
            return _problem(
                f"answers HTTP {status}, so it does not take {self.endpoint.signal} at {self.endpoint.path}",
                "Set OTEL_EXPORTER_OTLP_ENDPOINT to the URL that /v1/traces is appended to.",
            )
        if status == 400 and b"HTTPS" in body:
            return _problem("speaks only TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with https://.")
        if status < 400:
            return _problem(f"redirects with HTTP {status}", "Set OTEL_EXPORTER_OTLP_ENDPOINT to the URL it leads to.")
        if status < 500:
            return Answer(State.OK, f"answers HTTP {status} to a request without data")
        return Answer(State.WARNING, f"answers HTTP {status}", "Look into the log of the receiver.")

    # --- OTLP/gRPC ---

    def _ask_grpc(self) -> Answer:
        try:
            # The exporter needs it; its import takes a moment.
            import grpc
        except ImportError:
            return Answer(State.OK, "something listens there; without grpcio it cannot be asked more")
        untyped: Any = grpc
        endpoint = self.endpoint
        options = (("grpc.enable_http_proxy", 0),)
        if endpoint.secure:
            channel = untyped.secure_channel(endpoint.target, _grpc_credentials(untyped, endpoint.signal), options)
        else:
            channel = untyped.insecure_channel(endpoint.target, options)
        try:
            call = channel.unary_unary(f"/opentelemetry.proto.collector.{_SERVICES[endpoint.signal]}/Export")
            call(b"", timeout=self._left, metadata=tuple((k.lower(), v) for k, v in endpoint.headers.items()))
        except untyped.RpcError as error:
            return self._grpc_answer(error.code().name, str(error.details()))
        finally:
            channel.close()
        return Answer(State.OK, "accepts OTLP")

    def _grpc_answer(self, code: str, details: str) -> Answer:
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return _unauthorized(code)
        if code in ("UNIMPLEMENTED", "NOT_FOUND"):
            return _problem(
                f"speaks gRPC, but does not take {self.endpoint.signal}",
                f"Set OTEL_EXPORTER_OTLP_{self.endpoint.signal.upper()}_ENDPOINT, or "
                f"OTEL_{self.endpoint.signal.upper()}_EXPORTER=none.",
            )
        if self.endpoint.secure and "CERTIFICATE_VERIFY_FAILED" in details:
            return _problem(
                "its certificate is not trusted",
                "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of its certificate authority.",
            )
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"):
            return self._wrong_protocol()
        return Answer(State.OK, f"answers {code} to a request without data")

    # --- Another protocol ---

    def _wrong_protocol(self) -> Answer:
        """Return the answer of a server that did not understand: it speaks another protocol than the exporter."""
        self._deadline = max(self._deadline, monotonic() + 0.5)
        spoken = self._spoken()
        wanted = self.endpoint.protocol
        if spoken == "tls" and not self.endpoint.secure:
            return _problem("speaks only TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with https://.")
        if spoken in ("grpc", "http/protobuf") and self.endpoint.secure:
            return _problem("does not speak TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with http://.")
        other: Protocol = "http/protobuf" if wanted == "grpc" else "grpc"
        if spoken == other:
            names = {"grpc": "gRPC", "http/protobuf": "HTTP"}
            return _problem(
                f"speaks {names[other]}, but the exporter speaks {names[wanted]}",
                f"Set OTEL_EXPORTER_OTLP_PROTOCOL={other}, or send to the port for {names[wanted]}, "
                f"which is {_PORTS[wanted]} by default.",
            )
        return _problem(
            f"something listens there, but does not speak OTLP ({wanted})",
            "Set OTEL_EXPORTER_OTLP_ENDPOINT to the address of an OTLP receiver.",
        )

    def _spoken(self) -> str | None:
        # A server of the one protocol closes the connection, or waits, when it is spoken to in the other.
        for hello in (_HTTP1_REQUEST, _HTTP2_PREFACE):
            try:
                with self._connect() as connection:
                    connection.settimeout(min(0.5, self._left))
                    connection.sendall(hello)
                    reply = connection.recv(16)
            except OSError:
                continue
            if reply[:1] == bytes((_TLS_ALERT,)):
                return "tls"
            if len(reply) >= 9 and reply[3] == _SETTINGS_FRAME:
                return "grpc"
            if reply.startswith(b"HTTP/1"):
                return "http/protobuf"
        return None


def _problem(text: str, remedy: str = "") -> Answer:
    return Answer(State.PROBLEM, text, remedy)


def _unauthorized(code: str) -> Answer:
    return _problem(
        f"refuses the exporter's credentials ({code})", "Set OTEL_EXPORTER_OTLP_HEADERS as the backend says."
    )


def _reason(error: Exception) -> str:
    # The system's text quotes nothing.
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _certificate(kind: str, signal: Signal) -> str | None:
    """Return the file that the exporters' variables name: ``CERTIFICATE``, ``CLIENT_KEY`` or ``CLIENT_CERTIFICATE``."""
    return variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{kind}") or variable(f"OTEL_EXPORTER_OTLP_{kind}") or None


def _tls_context(signal: Signal) -> ssl.SSLContext:
    authority = _certificate("CERTIFICATE", signal)
    if authority is None:
        try:
            # The exporter trusts the certificates of requests, which can differ from the system's.
            import certifi

            authority = os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
        except ImportError:
            pass
    context = ssl.create_default_context(cafile=authority)
    if (certificate := _certificate("CLIENT_CERTIFICATE", signal)) is not None:
        context.load_cert_chain(certificate, _certificate("CLIENT_KEY", signal))
    return context


def _grpc_credentials(grpc: Any, signal: Signal) -> Any:
    files = (_certificate(kind, signal) for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"))
    return grpc.ssl_channel_credentials(*(_read(file) if file else None for file in files))


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()
