# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP endpoint, and a probe that checks whether something listens there and speaks the protocol.

The probe sends a request without data and with the exporter's headers. According to the OTLP specification
(https://opentelemetry.io/docs/specs/otlp/), a receiver accepts it and stores nothing.
"""

import http.client
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from opentelemetry.instrumentation.utils import suppress_instrumentation

from .environment import otlp_variable
from .finding import Finding, ok, problem, warning

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["traces", "metrics", "logs"]

TIMEOUT: Final = 2.0
"""Seconds within which an endpoint must answer."""

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

_ONLY_TLS: Final = problem("speaks only TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with https://.")
_NO_TLS: Final = problem("does not speak TLS", "Begin OTEL_EXPORTER_OTLP_ENDPOINT with http://.")
_SET_ENDPOINT: Final = "Set OTEL_EXPORTER_OTLP_ENDPOINT."


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
    """It may contain a key."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

    @classmethod
    def parse(
        cls, signal: Signal, protocol: Protocol, url: str, headers: Mapping[str, str], *, secure: bool | None = None
    ) -> "Endpoint":
        """Return the endpoint of a URL, or of gRPC's ``host:port``.

        :param secure: whether the connection uses TLS, if the exporter specifies it.
        :raises ValueError: for a URL without a host, or with a port that is not a number.
        """
        parts = urlsplit(url if "//" in url else f"//{url}")
        if not parts.hostname:
            raise ValueError("a URL has no host")
        tls = parts.scheme == "https" if secure is None else secure
        port = parts.port or (443 if tls or protocol == "grpc" else 80)
        if parts.username is not None and protocol != "grpc":
            # As in the exporter's HTTP client. A header of the exporter takes precedence.
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
    """A request to an endpoint, sent in a thread of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._deadline = monotonic() + TIMEOUT
        self._answer: Finding | None = None
        # A name lookup has no time limit. A daemon thread does not delay the exit.
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def answer(self) -> Finding:
        """Wait for the answer, until a second after the endpoint's deadline."""
        self._thread.join(max(0.0, self._deadline + 1 - monotonic()))
        return self._answer or problem(f"no answer within {TIMEOUT:.0f} s")

    def _run(self) -> None:
        # The application's instrumentations must not trace the probe.
        with suppress_instrumentation():
            try:
                self._answer = self._ask()
            except Exception as error:  # noqa: BLE001 - any fault of the transport is an answer.
                # The system's text quotes no credentials.
                reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
                self._answer = problem(f"not reachable: {reason}")

    def _ask(self) -> Finding:
        scheme = "https" if self.endpoint.secure else "http"
        if scheme in getproxies() and not proxy_bypass(self.endpoint.host):
            # The variable is named, since the proxy's URL may hold credentials.
            return ok(f"not asked, because requests go through the proxy in {scheme}_proxy")
        try:
            self._connect().close()
        except ConnectionRefusedError:
            return problem("nothing listens there", "Start the collector, or set OTEL_EXPORTER_OTLP_ENDPOINT.")
        except socket.gaierror:
            return problem(f"the host {self.endpoint.host} is not known", _SET_ENDPOINT)
        except TimeoutError:
            return problem(f"no connection within {TIMEOUT:.0f} s", _SET_ENDPOINT)
        return self._ask_grpc() if self.endpoint.protocol == "grpc" else self._ask_http()

    @property
    def _left(self) -> float:
        return max(0.05, self._deadline - monotonic())

    def _connect(self) -> socket.socket:
        return socket.create_connection((self.endpoint.host, self.endpoint.port), self._left)

    # --- OTLP/HTTP ---

    def _ask_http(self) -> Finding:
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
            return _untrusted(f": {error.verify_message}")
        except ssl.SSLError:
            return _NO_TLS
        except TimeoutError:
            return problem(f"no answer within {TIMEOUT:.0f} s", "Check that this is the port of an OTLP receiver.")
        except (http.client.HTTPException, ConnectionError):
            return self._wrong_protocol()
        finally:
            connection.close()

    def _http_answer(self, status: int, body: bytes) -> Finding:
        if status < 300:
            return ok("accepts OTLP")
        if status in (401, 403):
            return _unauthorized(f"HTTP {status}")
        if status in (404, 405, 501):
            return problem(
                f"answers HTTP {status}, so it does not take {self.endpoint.signal} at {self.endpoint.path}",
                "Set OTEL_EXPORTER_OTLP_ENDPOINT to the URL that /v1/traces is appended to.",
            )
        if status == 400 and b"HTTPS" in body:
            return _ONLY_TLS
        if status < 400:
            return problem(f"redirects with HTTP {status}", "Set OTEL_EXPORTER_OTLP_ENDPOINT to the URL it leads to.")
        if status < 500:
            return ok(f"answers HTTP {status} to a request without data")
        return warning(f"answers HTTP {status}", "Look into the log of the receiver.")

    # --- OTLP/gRPC ---

    def _ask_grpc(self) -> Finding:
        try:
            # Imported here, because only the gRPC exporter needs it and the import is slow.
            import grpc
        except ImportError:
            return ok("something listens there; grpcio, which could ask more, is not installed")
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
        return ok("accepts OTLP")

    def _grpc_answer(self, code: str, details: str) -> Finding:
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return _unauthorized(code)
        if code in ("UNIMPLEMENTED", "NOT_FOUND"):
            return problem(
                f"speaks gRPC, but does not take {self.endpoint.signal}",
                f"Set OTEL_EXPORTER_OTLP_{self.endpoint.signal.upper()}_ENDPOINT, or "
                f"OTEL_{self.endpoint.signal.upper()}_EXPORTER=none.",
            )
        if self.endpoint.secure and "CERTIFICATE_VERIFY_FAILED" in details:
            return _untrusted()
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"):
            return self._wrong_protocol()
        return ok(f"answers {code} to a request without data")

    # --- Another protocol ---

    def _wrong_protocol(self) -> Finding:
        """Determine which protocol the server speaks, because it did not understand the exporter's."""
        self._deadline = max(self._deadline, monotonic() + 0.5)
        spoken = self._spoken()
        wanted = self.endpoint.protocol
        if spoken == "tls" and not self.endpoint.secure:
            return _ONLY_TLS
        if spoken in ("grpc", "http/protobuf") and self.endpoint.secure:
            return _NO_TLS
        other: Protocol = "http/protobuf" if wanted == "grpc" else "grpc"
        if spoken == other:
            names = {"grpc": "gRPC", "http/protobuf": "HTTP"}
            return problem(
                f"speaks {names[other]}, but the exporter speaks {names[wanted]}",
                f"Set OTEL_EXPORTER_OTLP_PROTOCOL={other}, or send to the port for {names[wanted]}, "
                f"which is {_PORTS[wanted]} by default.",
            )
        return problem(
            f"something listens there, but does not speak OTLP ({wanted})",
            "Set OTEL_EXPORTER_OTLP_ENDPOINT to the address of an OTLP receiver.",
        )

    def _spoken(self) -> str | None:
        # A server that receives the other protocol closes the connection or waits.
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


def _unauthorized(code: str) -> Finding:
    return problem(
        f"refuses the exporter's credentials ({code})", "Set OTEL_EXPORTER_OTLP_HEADERS as the backend says."
    )


def _untrusted(reason: str = "") -> Finding:
    return problem(
        f"its certificate is not trusted{reason}",
        "Set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of its certificate authority.",
    )


def _tls_context(signal: Signal) -> ssl.SSLContext:
    authority = otlp_variable(signal, "CERTIFICATE") or None
    if authority is None:
        try:
            # The exporter trusts the certificates of requests, which can differ from the system's.
            import certifi

            authority = os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
        except ImportError:
            pass
    context = ssl.create_default_context(cafile=authority)
    if certificate := otlp_variable(signal, "CLIENT_CERTIFICATE"):
        context.load_cert_chain(certificate, otlp_variable(signal, "CLIENT_KEY") or None)
    return context


def _grpc_credentials(grpc: Any, signal: Signal) -> Any:
    files = (otlp_variable(signal, name) for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"))
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))
