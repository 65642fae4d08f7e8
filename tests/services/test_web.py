# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Streams that a web framework reads after the view has returned: Flask, Django and aiohttp.

Each service runs under ``opentelemetry-instrument`` in its own process.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from support import SUPPORT
from support.environment import lacking
from support.examples import missing
from support.providers import ProviderServer, Reply

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

from support.services import HOST, MODEL, TIMEOUT, Caller, Service, Services, Span, Traces, ask, collecting, named

WEB = SUPPORT / "web"
GUNICORN = ("--bind=127.0.0.1:{port}", "--worker-class=gthread", "--threads=4")


UVICORN = ("--port={port}", "--log-level=warning", "--lifespan=off")


class Setup(NamedTuple):
    """How a service is started, and the packages that it needs."""

    command: tuple[str, ...]
    modules: tuple[str, ...]
    instrumentor: str
    env: dict[str, str] = {}


FLASK = Setup(("gunicorn", "flask_app:app", *GUNICORN), ("flask", "gunicorn"), "flask")
DJANGO = Setup(
    ("gunicorn", "django_app:wsgi", *GUNICORN),
    ("django", "gunicorn"),
    "django",
    {"DJANGO_SETTINGS_MODULE": "django_settings"},
)
DJANGO_ASGI = DJANGO._replace(
    command=("uvicorn", "django_app:asgi", *UVICORN),
    modules=("django", "uvicorn", "opentelemetry.instrumentation.asgi"),
)
SETUPS = {
    "flask": FLASK,
    "flask+middleware": FLASK._replace(env={"MIDDLEWARE": "1"}),
    "django": DJANGO,
    "django+middleware": DJANGO._replace(env={**DJANGO.env, "MIDDLEWARE": "1"}),
    "django-asgi": DJANGO_ASGI,
    "django-asgi+middleware": DJANGO_ASGI._replace(env={**DJANGO.env, "MIDDLEWARE": "1"}),
    "aiohttp": Setup(("python", str(WEB / "aiohttp_app.py"), "{port}"), ("aiohttp",), "aiohttp-server"),
}


def reason_to_skip(setup: Setup) -> str | None:
    return lacking(*setup.modules, instrumentors=(setup.instrumentor,))


class Web(NamedTuple):
    """The services that this environment can start."""

    services: dict[str, Service]
    provider: ProviderServer
    collector: Traces

    def ask(self, name: str, path: str) -> tuple[Caller, list[Span]]:
        """Request a streamed answer. Return the request's caller and the trace of the model span."""
        if reason := reason_to_skip(SETUPS[name]):
            pytest.skip(reason)
        caller = Caller()
        assert "there" in ask(self.services[name], path, caller)
        trace_id = self.provider.requests[-1].headers["traceparent"].split("-")[1]

        def complete(spans: list[Span]) -> bool:
            # The model, its HTTP request, and the spans up to the caller.
            of_caller = trace_id != caller.trace_id or any(span.parent_id == caller.span_id for span in spans)
            return {MODEL, "POST"} <= {span.name for span in spans} and of_caller

        return caller, self.collector.wait_for(trace_id, complete)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """All services, started at the same time because each needs seconds for its imports."""
    with ProviderServer() as provider, collecting() as collector:
        services = Services(tmp_path_factory.mktemp("web"), f"{provider.url}/v1", collector)
        started = {
            name: services.start(name, *setup.command, path=(WEB,), **setup.env)
            for name, setup in SETUPS.items()
            if reason_to_skip(setup) is None
        }
        for service in started.values():
            service.wait()
        yield Web(started, provider, collector)
        services.stop()


def parent_of_model(spans: list[Span]) -> Span | None:
    (model,) = named(spans, MODEL)
    return next((span for span in spans if span.span_id == model.parent_id), None)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flask", "/view"),
        ("django", "/view"),
        ("django-asgi", "/view"),
        ("django-asgi", "/async/view"),
        ("aiohttp", "/view"),
        ("aiohttp", "/written"),
    ],
)
def test_a_stream_started_in_the_view_belongs_to_the_request(web: Web, name: str, path: str) -> None:
    caller, spans = web.ask(name, path)
    parent = parent_of_model(spans)
    assert parent is not None
    assert parent.parent_id == caller.span_id


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flask", "/late"),
        ("flask", "/with-context"),
        ("django", "/late"),
        ("django-asgi", "/async/late"),
        ("aiohttp", "/late"),
    ],
)
def test_a_stream_started_after_the_view_is_a_separate_trace(web: Web, name: str, path: str) -> None:
    caller, spans = web.ask(name, path)
    (model,) = named(spans, MODEL)
    assert model.trace_id != caller.trace_id
    assert model.parent_id == ""


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("flask+middleware", "/view"),
        ("flask+middleware", "/late"),
        ("django+middleware", "/view"),
        ("django+middleware", "/late"),
        ("django-asgi+middleware", "/async/view"),
        ("django-asgi+middleware", "/async/late"),
    ],
)
def test_the_middleware_keeps_the_request_for_a_stream_started_after_the_view(web: Web, name: str, path: str) -> None:
    caller, spans = web.ask(name, path)
    (model,) = named(spans, MODEL)
    assert model.trace_id == caller.trace_id
    parents = {span.span_id: span.parent_id for span in spans}
    # The middleware's span comes first, and the framework's own span is below it too.
    assert parents[model.parent_id] in (caller.span_id, *parents)


@pytest.mark.parametrize(("name", "path"), [("flask", "/view"), ("django", "/view")])
def test_a_client_that_disconnects_ends_the_call(web: Web, name: str, path: str) -> None:
    if reason := reason_to_skip(SETUPS[name]):
        pytest.skip(reason)
    caller = Caller()
    web.provider.reply = Reply(chunks=["more "] * 2000, delay=0.01)
    try:
        service = web.services[name]
        with closing(http.client.HTTPConnection(HOST, service.port, timeout=TIMEOUT)) as connection:
            connection.request("POST", path, "", caller.headers)
            with connection.getresponse() as response:
                assert response.read(5) == b"more "
        spans = web.collector.wait_for(caller.trace_id, lambda spans: bool(named(spans, MODEL)))
    finally:
        web.provider.reply = Reply()
    (model,) = named(spans, MODEL)
    assert model.attributes["modelforge.outcome"] == "closed"
    assert 1 <= model.attributes["modelforge.response.chunk_count"] < 2000
