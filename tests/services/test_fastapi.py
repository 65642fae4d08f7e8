# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Chat services in FastAPI, each under `opentelemetry-instrument` in its own process."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from support import SUPPORT
from support.environment import lacking
from support.examples import missing
from support.providers import ProviderServer, Reply
from support.services import Caller, ask

if reason := missing() or lacking("fastapi", "uvicorn", instrumentors=("fastapi",)):
    pytest.skip(reason, allow_module_level=True)

from support.services import (
    CLIENT,
    FASTAPI,
    GET_LLM,
    HOST,
    MODEL,
    SERVER,
    TIMEOUT,
    Service,
    Services,
    Span,
    Traces,
    collecting,
    named,
    without_parts,
)

PLAIN = ["/chat", "/sync/chat"]
STREAMED = ["/chat/stream", "/sync/chat/stream", "/native/chat/stream", "/native/sync/chat/stream"]
ROUTES = [*PLAIN, *STREAMED]


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with ProviderServer() as provider:
        yield provider


@pytest.fixture(autouse=True)
def replies(provider: ProviderServer) -> Iterator[None]:
    provider.reply = Reply()
    yield
    provider.reply = Reply()


@pytest.fixture(scope="module")
def collector() -> Iterator[Traces]:
    with collecting() as traces:
        yield traces


@pytest.fixture(scope="module")
def services(
    provider: ProviderServer, collector: Traces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("services"), f"{provider.url}/v1", collector)
    yield services
    services.stop()


@pytest.fixture(scope="module")
def started(services: Services) -> dict[str, Service]:
    """All services, started at the same time because each needs seconds for its imports."""
    chat = services.start_uvicorn(
        "chat", "service_app:app", path=(FASTAPI, SUPPORT), OTEL_PYTHON_MODELFORGE_BAGGAGE_KEYS="tenant"
    )
    started = {
        "chat": chat,
        "gateway": services.start_uvicorn("gateway", "gateway:app", CHAT_URL=chat.url),
        # FastAPI only creates its own spans if its instrumentation is not installed, or is disabled.
        "native": services.start_uvicorn(
            "native", "service_app:app", path=(FASTAPI, SUPPORT), OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="fastapi"
        ),
    }
    for service in started.values():
        service.wait()
    return started


@pytest.fixture(scope="module")
def chat(started: dict[str, Service]) -> Service:
    return started["chat"]


def ask_and_leave(service: Service, path: str, caller: Caller) -> None:
    """Read the first event of a stream, and close the connection."""
    with closing(http.client.HTTPConnection(HOST, service.port, timeout=TIMEOUT)) as connection:
        connection.request("POST", path, json.dumps({"text": "Hi"}), caller.headers)
        with connection.getresponse() as response:
            assert response.readline().startswith(b"data: ")


def has(*names: str, service: str | None = None) -> Any:
    """Return the condition that spans with these names have arrived, and the server span, which ends last."""

    def complete(spans: list[Span]) -> bool:
        of_service = [span for span in spans if service in (None, span.service)]
        return {span.name for span in of_service} >= set(names) and any(span.kind == SERVER for span in of_service)

    return complete


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


def line(spans: list[Span], span: Span) -> list[str]:
    """Return the names from a span up to the one whose parent is not among the spans, and the id of that parent."""
    by_id = {span.span_id: span for span in spans}
    names = [span.name]
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    return [*names, span.parent_id]


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("/native"):
        pytest.importorskip("fastapi.sse")
    return request.param


def test_one_trace_from_the_caller_to_the_provider(
    chat: Service, collector: Traces, provider: ProviderServer, route: str
) -> None:
    caller = Caller()
    body = ask(chat, route, caller)
    assert "there" in body
    spans = without_parts(collector.wait_for(caller.trace_id, has(GET_LLM, MODEL, "POST")))
    server = f"POST {route}"
    assert line(spans, only(named(spans, GET_LLM))) == [GET_LLM, server, caller.span_id]
    assert line(spans, only(named(spans, "POST"))) == ["POST", MODEL, server, caller.span_id]
    assert len(spans) == 4
    model = only(named(spans, MODEL))
    assert model.kind == CLIENT
    assert model.attributes["modelforge.outcome"] == "completed"
    assert model.attributes.get("gen_ai.request.stream", False) is route.endswith("stream")
    assert model.links == (only(named(spans, GET_LLM)).span_id,)
    sent = provider.requests[-1].headers["traceparent"]
    assert sent == f"00-{caller.trace_id}-{only(named(spans, 'POST')).span_id}-01"


@pytest.mark.parametrize("route", ["/chat", "/sync/chat/stream"])
def test_baggage_of_the_caller_is_on_the_spans(chat: Service, collector: Traces, route: str) -> None:
    caller = Caller()
    ask(chat, route, caller)
    spans = collector.wait_for(caller.trace_id, has(GET_LLM, MODEL))
    for name in (GET_LLM, MODEL):
        attributes = only(named(spans, name)).attributes
        assert attributes["tenant"] == "acme"
        assert "user" not in attributes


@pytest.mark.parametrize("path", ["/imported/chat", "/imported/sync/chat"])
def test_a_model_created_at_import_is_traced_in_each_request(chat: Service, collector: Traces, path: str) -> None:
    caller = Caller()
    ask(chat, path, caller)
    spans = collector.wait_for(caller.trace_id, has(MODEL, "POST"))
    assert line(spans, only(named(spans, "POST"))) == ["POST", MODEL, f"POST {path}", caller.span_id]
    assert not named(spans, GET_LLM)
    assert only(named(spans, MODEL)).attributes["tenant"] == "acme"


# The test of the two routes whose generator is left to the garbage collector is below.
@pytest.mark.parametrize("path", ["/chat/stream", "/sync/chat/stream"])
def test_a_client_that_disconnects_in_mid_stream_ends_the_call(
    chat: Service, collector: Traces, provider: ProviderServer, path: str
) -> None:
    provider.reply = Reply(chunks=["more "] * 2000, delay=0.01)
    caller = Caller()
    ask_and_leave(chat, path, caller)
    spans = without_parts(collector.wait_for(caller.trace_id, has(GET_LLM, MODEL, "POST")))
    assert len(spans) == 4
    assert line(spans, only(named(spans, "POST"))) == ["POST", MODEL, f"POST {path}", caller.span_id]
    attributes = only(named(spans, MODEL)).attributes
    assert attributes["modelforge.outcome"] == ("closed" if "sync" in path else "cancelled")
    assert 1 <= attributes["modelforge.response.chunk_count"] < 2000


@pytest.mark.parametrize("path", ["/ask", "/ask/stream"])
def test_one_trace_across_two_services(started: dict[str, Service], collector: Traces, path: str) -> None:
    caller = Caller()
    assert "there" in ask(started["gateway"], path, caller)
    complete = has(MODEL, "POST", service="chat")
    spans = without_parts(
        collector.wait_for(caller.trace_id, lambda spans: complete(spans) and has("POST", service="gateway")(spans))
    )
    inner = only([span for span in named(spans, "POST") if span.service == "chat"])
    chat_path = path.replace("ask", "chat")
    assert line(spans, inner) == ["POST", MODEL, f"POST {chat_path}", "POST", f"POST {path}", caller.span_id]
    assert [span.service for span in spans if span.kind == SERVER and span.name == f"POST {path}"] == ["gateway"]
    assert only(named(spans, MODEL)).attributes["tenant"] == "acme"


def test_a_client_that_disconnects_from_the_gateway_ends_the_call_behind_it(
    started: dict[str, Service], collector: Traces, provider: ProviderServer
) -> None:
    provider.reply = Reply(chunks=["more "] * 2000, delay=0.01)
    caller = Caller()
    ask_and_leave(started["gateway"], "/ask/stream", caller)
    spans = collector.wait_for(caller.trace_id, has(MODEL, service="chat"))
    assert only(named(spans, MODEL)).attributes["modelforge.outcome"] == "cancelled"


@pytest.mark.parametrize("path", ["/chat", "/sync/chat/stream"])
def test_under_fastapis_own_spans(started: dict[str, Service], collector: Traces, path: str) -> None:
    pytest.importorskip("fastapi.telemetry")
    caller = Caller()
    ask(started["native"], path, caller)
    spans = collector.wait_for(caller.trace_id, has(GET_LLM, MODEL, "POST"))
    server = only([span for span in spans if span.kind == SERVER])
    assert server.parent_id == caller.span_id
    for name in (GET_LLM, MODEL, "POST"):
        assert line(spans, only(named(spans, name)))[-2:] == [server.name, caller.span_id]


# These tests are last because they stop services that the tests above share.


@pytest.mark.parametrize("path", ["/native/chat/stream", "/native/sync/chat/stream"])
def test_shutting_down_the_service_ends_a_stream_left_to_the_garbage_collector(
    started: dict[str, Service], collector: Traces, provider: ProviderServer, path: str
) -> None:
    pytest.importorskip("fastapi.sse")
    service = started["native" if "sync" in path else "chat"]
    provider.reply = Reply(chunks=["more "] * 2000, delay=0.01)
    caller = Caller()
    ask_and_leave(service, path, caller)
    collector.wait_for(caller.trace_id, has())
    service.stop()
    spans = collector.traces[caller.trace_id]
    assert only(named(spans, MODEL)).attributes["modelforge.outcome"] in {"cancelled", "closed", "abandoned"}


def test_nothing_is_lost_when_the_service_is_terminated(services: Services, collector: Traces) -> None:
    """The service has the guide's addition, because the signal ends uvicorn without running `atexit`."""
    service = services.start_uvicorn(
        "chat", "service_app:app", path=(FASTAPI, SUPPORT), OTEL_BSP_SCHEDULE_DELAY="600000"
    )
    service.wait()
    callers = [Caller() for _ in ROUTES]
    for caller, path in zip(callers, ["/chat", "/sync/chat", "/chat/stream", "/sync/chat/stream"], strict=False):
        ask(service, path, caller)
    service.stop(signal.SIGTERM)
    for caller in callers[:4]:
        assert len(without_parts(collector.traces[caller.trace_id])) == 4
