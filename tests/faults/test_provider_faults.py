# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Faults of a provider and its network, and invalid answers: the application sees the same as uninstrumented."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
import socketserver
import struct
import threading
import tracemalloc
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
from google.ai import generativelanguage_v1beta as google
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_github_copilot import chat_models as copilot
from modelforge import ModelForgeRegistry
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.call import open_calls
from support.answers import KEYS
from support.calls import MODEL_SPAN, MODELS, await_dropped, model_spans
from support.models import get_llm, without_retries, write_config
from support.providers import HOST, ProviderServer, Reply
from support.telemetry import Telemetry

pytestmark = [
    pytest.mark.usefixtures("nothing_left", "heard"),
    # Warnings of the libraries about an invalid count or finish reason.
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.filterwarnings("ignore:Unrecognized FinishReason"),
]

Instrument = Callable[..., Telemetry]
TIMEOUT = 10
"""Seconds to wait for something that happens immediately, unless the test is about to fail."""


# --- A server that sends bytes ---

Answer = bytes | Callable[[socket.socket], None]


class Wire(socketserver.ThreadingTCPServer):
    """Sends `answer` in reply to any request, and closes the connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Connection)
        self.url = f"http://{HOST}:{self.server_address[1]}"
        self.answer: Answer = b""
        self.paths: list[str] = []
        """The paths of this test's requests until now."""
        self.gone = threading.Event()
        """Set when a client of this test disconnected before it had received everything."""

    def shutdown_request(self, request: Any) -> None:
        # The inherited method first shuts the connection down, so the peer would see an end and not a reset.
        self.close_request(request)


ASKED = threading.Event()
"""Set when a request has arrived."""


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: Wire

    def handle(self) -> None:
        path = self.rfile.readline().split(b" ")[1].decode()
        headers = dict(line.lower().split(b":", 1) for line in iter(self.rfile.readline, b"\r\n"))
        self.rfile.read(int(headers.get(b"content-length", 0)))
        self.server.paths.append(path)
        ASKED.set()
        answer = self.server.answer
        try:
            if isinstance(answer, bytes):
                self.request.sendall(answer)
            else:
                answer(self.request)
        except OSError:
            self.server.gone.set()


@pytest.fixture(scope="module")
def listening() -> Iterator[Wire]:
    with Wire() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def wire(listening: Wire) -> Wire:
    """One server for all tests, because langchain-openai keeps a client per address, and creating one takes long."""
    listening.paths = []
    listening.gone = threading.Event()
    return listening


@pytest.fixture(scope="module")
def provider_server() -> Iterator[ProviderServer]:
    """Google over gRPC, and the other providers, which are not called."""
    with ProviderServer() as server:
        yield server


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that neither this package nor OpenTelemetry logs anything. A repeated fault is logged at DEBUG."""
    caplog.set_level("DEBUG", "opentelemetry_instrumentation_modelforge")
    yield
    ours = [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]
    assert [(record.getMessage(), record.exc_info) for record in ours] == []


@pytest.fixture
def model_config(model_config: dict[str, Any], wire: Wire) -> dict[str, Any]:
    model_config["providers"]["openai"]["base_url"] = f"{wire.url}/v1"
    model_config["providers"]["ollama"]["base_url"] = wire.url
    return model_config


@pytest.fixture
def redirected(redirected: None, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copilot, "API_ENDPOINT", wire.url)


def http(
    body: bytes, content_type: str = "application/json", status: str = "200 OK", length: int | None = -1, **more: str
) -> bytes:
    """Return a response of this length, by default that of its body. None: as long as the connection."""
    headers = {"content-type": content_type, "connection": "close", **more}
    if length is not None:
        headers["content-length"] = str(len(body) if length == -1 else length)
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def reset(connection: socket.socket) -> None:
    """Let the connection end with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def then_reset(sent: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(sent)
        reset(connection)

    return answer


def dripping(sent: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for byte in sent:
            connection.sendall(bytes([byte]))

    return answer


# --- Valid and invalid answers of OpenAI's API ---

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ENVELOPE = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "gpt-4o-mini-2024-07-18"}
MISSING = object()


def without_missing(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not MISSING}


def completion(content: Any = "Hello", finish_reason: Any = "stop", **changes: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    data = {**ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": USAGE, **changes}
    return json.dumps(without_missing(data)).encode()


def event(delta: Any = MISSING, finish_reason: Any = None, **changes: Any) -> bytes:
    choices = [] if delta is MISSING else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    data = {**ENVELOPE, "object": "chat.completion.chunk", "choices": choices, **changes}
    return b"data: %s\n\n" % json.dumps(without_missing(data)).encode()


def events(content: Any = "Hello", finish_reason: Any = "stop", usage: Any = USAGE, **changes: Any) -> bytes:
    return b"".join(
        (
            event({"role": "assistant", "content": ""}, **changes),
            event({"content": content}, **changes),
            event({"content": " there"}, **changes),
            event({}, finish_reason, **changes),
            event(usage=usage, **changes),
            b"data: [DONE]\n\n",
        )
    )


def sse(body: bytes, **options: Any) -> bytes:
    return http(body, "text/event-stream", length=None, **options)


HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
LONE = "gpt\ud800"
COUNTS: dict[str, Any] = {
    "negative": -11,
    "string": "11",
    "word": "eleven",
    "float": 11.5,
    "whole float": 11.0,
    "65 bits": 2**64,
    "400 digits": 10**400,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "nested": {"tokens": 11},
    "list": [11],
    "true": True,
    "null": None,
    "zero": 0,
    "missing": MISSING,
}


def both(count: Any) -> dict[str, Any]:
    return without_missing({"prompt_tokens": count, "completion_tokens": count, "total_tokens": count})


USAGES: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "list": [11, 7],
    "string": "18",
    "number": 18,
    "empty": {},
    **{f"{name} count": both(count) for name, count in COUNTS.items()},
    **{f"{name} input": without_missing({**USAGE, "prompt_tokens": count}) for name, count in COUNTS.items()},
    **{
        f"{name} details": {**USAGE, "prompt_tokens_details": details, "completion_tokens_details": details}
        for name, details in {
            "null": None,
            "string": "x",
            "list": [1],
            "negative": {"cached_tokens": -4, "reasoning_tokens": -3},
            "word": {"cached_tokens": "four", "reasoning_tokens": "three"},
        }.items()
    },
}
WRONG: dict[str, Any] = {
    "number": 5,
    "null": None,
    "list": ["x"],
    "mapping": {"x": "y"},
    "empty": "",
    "lone surrogate": LONE,
    "true": True,
    "missing": MISSING,
}
FIELDS = {
    f"{field} {name}": {field: value}
    for field in ("id", "model", "finish_reason", "content")
    for name, value in WRONG.items()
    if not (field in ("finish_reason", "content") and value is MISSING)
}
CHOICES: dict[str, Any] = {
    "empty choices": [],
    "null choices": None,
    "no choices": MISSING,
    "choices string": "x",
    "choices mapping": {},
    "choices numbers": [5],
    "choices nulls": [None],
    "choices empty mapping": [{}],
}

PLAIN: dict[str, Answer] = {
    **{f"usage: {name}": http(completion(usage=usage)) for name, usage in USAGES.items()},
    **{name: http(completion(**field)) for name, field in FIELDS.items()},
    **{name: http(completion(choices=choices)) for name, choices in CHOICES.items()},
    "null message": http(completion(choices=[{"index": 0, "message": None, "finish_reason": "stop"}])),
    "an error with status 200": http(b'{"error": {"message": "overloaded", "code": 502}}'),
    "half of the JSON": http(completion()[:60]),
    "no JSON": http(b"Hello"),
    "nothing": http(b""),
    "JSON null": http(b"null"),
    "JSON list": http(b"[]"),
    "JSON string": http(b'"Hello"'),
    "not UTF-8": http(completion("caf\u00e9").replace(b"caf\\u00e9", b"caf\xe9")),
    "HTML": http(HTML, "text/html"),
    "HTML as JSON": http(HTML),
    "wrong content type": http(completion(), "text/plain"),
    "broken gzip": http(completion(), content_encoding="gzip"),
    "shorter than announced": http(completion(), length=100_000),
    "longer than announced": http(completion(), length=40),
    "slow drip": dripping(http(completion())),
    "no HTTP": b"Hello\r\n\r\n",
    "closed before the headers": b"",
    "reset before the headers": then_reset(b""),
    "reset in the headers": then_reset(http(completion())[:30]),
    "reset after the headers": then_reset(http(b"", length=100)),
    "redirected in a circle": http(b"", status="307 Temporary Redirect", location="/v1/chat/completions"),
    "redirected elsewhere": http(b"", status="302 Found", location="http://127.0.0.1:1/"),
    "redirected nowhere": http(b"", status="307 Temporary Redirect"),
}
GOOD = events()
STREAMED: dict[str, Answer] = {
    **{f"usage: {name}": sse(events(usage=usage)) for name, usage in USAGES.items()},
    **{name: sse(events(**field)) for name, field in FIELDS.items()},
    **{name: sse(event({"content": "Hello"}) + event(choices=choices) + GOOD) for name, choices in CHOICES.items()},
    "only empty choices": sse(event() + event() + b"data: [DONE]\n\n"),
    "null delta": sse(event({"content": "Hello"}) + event(None) + GOOD),
    "broken JSON": sse(event({"content": "Hello"}) + b'data: {"id": "chat\n\n' + GOOD),
    "no [DONE]": sse(GOOD.removesuffix(b"data: [DONE]\n\n")),
    "only [DONE]": sse(b"data: [DONE]\n\n"),
    "half a line": sse(event({"content": "Hello"}) + event({"content": " there"})[:50]),
    "half a chunk": sse(b"1000\r\n" + event({"content": "Hello"}), transfer_encoding="chunked"),
    "no chunk": sse(b"xyz\r\n" + event({"content": "Hello"}), transfer_encoding="chunked"),
    "wrong content type": http(GOOD, "application/json", length=None),
    "an error in mid-stream": sse(event({"content": "Hello"}) + b'data: {"error": {"message": "overloaded"}}\n\n'),
    "an error event": sse(event({"content": "Hello"}) + b'event: error\ndata: {"message": "overloaded"}\n\n'),
    "comments only": sse(b": OPENROUTER PROCESSING\n\n" * 3),
    "comments": sse(b": OPENROUTER PROCESSING\n\n" + GOOD.replace(b"\n\n", b"\n\n: keep-alive\n\n")),
    "CRLF": sse(GOOD.replace(b"\n", b"\r\n")),
    "CR": sse(GOOD.replace(b"\n", b"\r")),
    "usage in every chunk": sse(events(usage=USAGE).replace(b'"object"', b'"usage": {"prompt_tokens": 1}, "object"')),
    "data null": sse(event({"content": "Hello"}) + b"data: null\n\n" + GOOD),
    "data list": sse(event({"content": "Hello"}) + b"data: []\n\n" + GOOD),
    "data number": sse(event({"content": "Hello"}) + b"data: 5\n\n" + GOOD),
    "not UTF-8": sse(event({"content": "Hello"}) + b'data: "caf\xe9"\n\n' + GOOD),
    "nothing": sse(b""),
    "HTML": http(HTML, "text/html"),
    "a plain answer": http(completion()),
    "broken gzip": sse(GOOD, content_encoding="gzip"),
    "shorter than announced": http(GOOD[:400], "text/event-stream", length=100_000),
    "slow drip": dripping(sse(GOOD)),
    "closed before the headers": b"",
    "reset before the headers": then_reset(b""),
    "reset after the headers": then_reset(sse(b"")),
    "reset in mid-stream": then_reset(sse(event({"content": "Hello"}))),
    "redirected in a circle": http(b"", status="307 Temporary Redirect", location="/v1/chat/completions"),
}


# --- Valid and invalid answers of Ollama ---


def line(content: Any = "Hello", **changes: Any) -> bytes:
    data = {"model": "llama3", "message": {"role": "assistant", "content": content}, "done": False, **changes}
    return json.dumps(without_missing(data)).encode() + b"\n"


def lines(*middle: bytes, **end: Any) -> bytes:
    last = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 7, **end}
    return http(b"".join((line(), *middle, line("", **last))), "application/x-ndjson", length=None)


OLLAMA: dict[str, Answer] = {
    **{f"{name} counts": lines(prompt_eval_count=count, eval_count=count) for name, count in COUNTS.items()},
    **{f"model {name}": lines(model=value) for name, value in WRONG.items()},
    **{f"done_reason {name}": lines(done_reason=value) for name, value in WRONG.items()},
    "broken JSON": lines(b'{"model": "lla\n'),
    "no end": http(line() + line(), length=None),
    "half a line": http(line() + line()[:20], length=None),
    "an error in mid-stream": lines(b'{"error": "out of memory"}\n'),
    "no message": lines(line(message=MISSING)),
    "null message": lines(line(message=None)),
    "JSON null": lines(b"null\n"),
    "empty lines": lines(b"\n\n"),
    "CRLF": lines().replace(b"}\n", b"}\r\n"),
    "nothing": http(b""),
    "HTML": http(HTML, "text/html"),
    "broken gzip": lines().replace(b"connection:", b"content-encoding: gzip\r\nconnection:"),
    "closed before the headers": b"",
    "reset before the headers": then_reset(b""),
    "slow drip": dripping(lines()),
}
# aiohttp discards data that it has not passed on by then, which depends on the scheduler.
OLLAMA_CUT: dict[str, Answer] = {
    "reset after the headers": then_reset(http(b"", length=None)),
    "reset in mid-stream": then_reset(http(line(), length=None)),
    "shorter than announced": http(line(), length=100_000),
}


# --- Valid and invalid answers of Google ---


def candidate(content: Any = "Hello", finish_reason: int = 1, **changes: Any) -> google.Candidate:
    content = google.Content(role="model", parts=[{"text": content}]) if isinstance(content, str) else content
    return google.Candidate(without_missing({"content": content, "finish_reason": finish_reason, **changes}))


def response(**changes: Any) -> bytes:
    usage = {"prompt_token_count": 11, "candidates_token_count": 7, "total_token_count": 18}
    data = {"candidates": [candidate()], "usage_metadata": usage, "model_version": "gemini-2.5-flash-001", **changes}
    return google.GenerateContentResponse.serialize(google.GenerateContentResponse(without_missing(data)))


def counts(count: int) -> dict[str, int]:
    return dict.fromkeys(
        ("prompt_token_count", "candidates_token_count", "thoughts_token_count", "cached_content_token_count"), count
    )


GEMINI: dict[str, Sequence[bytes]] = {
    "no candidates": [response(candidates=[])],
    "no candidates in mid-stream": [response(), response(candidates=[]), response()],
    "a blocked prompt": [response(candidates=[], prompt_feedback={"block_reason": 1})],
    "no content": [response(candidates=[candidate(None, finish_reason=3)])],
    "no parts": [response(candidates=[candidate(google.Content(role="model"))])],
    "no role": [response(candidates=[candidate(google.Content(parts=[{"text": "Hello"}]))])],
    "an empty part": [response(candidates=[candidate(google.Content(role="model", parts=[google.Part()]))])],
    "an empty text": [response(candidates=[candidate("")])],
    "a reason of no name": [response(candidates=[candidate(finish_reason=99)])],
    "a negative reason": [response(candidates=[candidate(finish_reason=-1)])],
    "no reason": [response(candidates=[candidate(finish_reason=0)])],
    "many candidates": [response(candidates=[candidate(str(index), index=index) for index in range(8)])],
    "a call without a name": [
        response(candidates=[candidate(google.Content(role="model", parts=[{"function_call": {"args": {"x": 1}}}]))])
    ],
    "no usage": [response(usage_metadata=MISSING)],
    "negative counts": [response(usage_metadata=counts(-11))],
    "the largest counts": [response(usage_metadata=counts(2**31 - 1))],
    "the smallest counts": [response(usage_metadata=counts(-(2**31)))],
    "zero counts": [response(usage_metadata=counts(0))],
    "counts that fall": [response(usage_metadata=counts(11)), response(usage_metadata=counts(7))],
    "usage before the end": [response(), response(usage_metadata=MISSING)],
    "no model": [response(model_version="")],
    "an unknown field": [response() + b"\xfa\x7f\x05Hello"],
    "half a message": [response(), response()[:-3]],
    "an empty message": [b""],
    "no message": [response(), b"\xff"],
    "text that is not UTF-8": [response(), response().replace(b"Hello", b"caf\xe9!")],
    "nothing": [],
}


# --- What the application sees ---


async def _collect(stream: Any, chunks: list[Any]) -> None:
    async for chunk in stream:
        chunks.append(chunk)


async def _ainvoke(llm: Any, chunks: list[Any]) -> None:
    chunks.append(await llm.ainvoke("Hi"))


def options(llm: Any) -> dict[str, Any]:
    return {"stream_usage": True} if hasattr(llm, "root_client") else {}


CALLS: dict[str, Callable[[Any, list[Any]], None]] = {
    "invoke": lambda llm, chunks: chunks.append(llm.invoke("Hi")),
    "ainvoke": lambda llm, chunks: asyncio.run(_ainvoke(llm, chunks)),
    "stream": lambda llm, chunks: chunks.extend(llm.stream("Hi", **options(llm))),
    "astream": lambda llm, chunks: asyncio.run(_collect(llm.astream("Hi", **options(llm)), chunks)),
}


def shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        # The value is a message that was not validated, or an int of more than 4,300 digits.
        return f"<{type(value).__name__}: {error}>"


ID = re.compile(r"(run|lc_run)-[\w-]+|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def seen(call: Callable[[Any, list[Any]], None], llm: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the chunks of a call, and the exceptions it ends with, from the one raised to its root cause."""
    chunks: list[Any] = []
    errors: list[tuple[str, str]] = []
    try:
        call(llm, chunks)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            errors.append((f"{type(cause).__module__}.{type(cause).__qualname__}", str(cause)))
            cause = cause.__cause__ or cause.__context__
    # Ids of runs and tool calls, and addresses of objects, differ from call to call.
    return [ID.sub("id", shown(chunk)) for chunk in chunks], [
        (kind, re.sub(r"0x\w+", "0x", text)) for kind, text in errors
    ]


# --- What is recorded ---

USAGE_ATTRIBUTES = {"gen_ai.usage.input_tokens": "input", "gen_ai.usage.output_tokens": "output"}


def tokens(telemetry: Telemetry) -> dict[str, int]:
    """Return the sums of the token metric, by type of token."""
    points = telemetry.metrics().get("gen_ai.client.token.usage", [])
    return {point.attributes["gen_ai.token.type"]: point.sum for point in points}


def check_call(span: ReadableSpan, streamed: bool, error: str | None, answered: str | None = None) -> None:
    """Check the span of a call that ended with an error, with an answer that is an error, or with none."""
    attributes = span.attributes or {}
    assert attributes["modelforge.outcome"] == ("failed" if error or answered else "completed")
    assert attributes.get("error.type") == (error or answered)
    assert span.status.status_code is (StatusCode.ERROR if error or answered else StatusCode.UNSET)
    assert [event.name for event in span.events if event.name == "exception"] == ["exception"] * bool(error)
    assert attributes.get("gen_ai.request.stream") is (True if streamed else None)
    check_types(attributes)


def check_types(attributes: Mapping[str, Any]) -> None:
    for name in ("gen_ai.response.id", "gen_ai.response.model"):
        assert type(attributes.get(name, "")) is str
    assert {type(reason) for reason in attributes.get("gen_ai.response.finish_reasons", ())} <= {str}
    for name, value in attributes.items():
        if name.startswith("gen_ai.usage.") and name.endswith("_tokens"):
            assert type(value) is int
            assert 0 <= value < 2**63


def check_encoding(spans: Sequence[ReadableSpan], reader: InMemoryMetricReader) -> None:
    """Check that OTLP can encode everything. It omits, and logs, values that it cannot encode."""
    encoded = encode_spans(spans)
    sent = [span for of in encoded.resource_spans for scope in of.scope_spans for span in scope.spans]
    assert sum(len(span.attributes) for span in sent) == sum(len(span.attributes or {}) for span in spans)
    if (data := reader.get_metrics_data()) is not None:
        encode_metrics(data)


KINDS = {
    **{f"usage: {name}": f"usage {name.split()[-1]}" for name in USAGES},
    **{f"{name} counts": "usage count" for name in COUNTS},
    **{fault: fault.split()[0] for fault in FIELDS},
    **{f"done_reason {name}": "done_reason" for name in WRONG},
    **dict.fromkeys(CHOICES, "choices"),
    **dict.fromkeys(GEMINI, "answer"),
}
"""The kinds of faults that occur in many variants."""


def aspects(provider: str, modes: tuple[str, ...], fault: str, answer: object) -> tuple[object, ...]:
    """Each fault of a protocol is in the sample, and each kind of fault for each provider and mode."""
    protocol = "openai" if provider == "github_copilot" else provider
    return (protocol, fault), (provider, modes, KINDS.get(fault, fault))


NO_CHOICE = ("empty choices", "choices mapping")
"""Faults that count as an answer until LangChain looks for a choice after the call."""

ERROR_ANSWERS = {
    **dict.fromkeys(NO_CHOICE, "empty_response"),
    "no end": "incomplete_response",
    "an error in mid-stream": "server_error",
}
"""The `error.type` of the faults that LangChain treats as an answer."""


@pytest.mark.sampled(by=aspects)
@pytest.mark.parametrize(
    ("provider", "modes", "fault", "answer"),
    [
        pytest.param(provider, modes, fault, answer, id=f"{provider}-{modes[0]}-{fault}")
        for provider, modes, faults in (
            ("openai", ("invoke", "ainvoke"), PLAIN),
            ("openai", ("stream", "astream"), STREAMED),
            ("ollama", tuple(CALLS), OLLAMA),
            ("ollama", ("invoke", "stream"), OLLAMA_CUT),
            # GitHub Copilot does not stream.
            ("github_copilot", ("invoke", "ainvoke"), PLAIN),
            ("google", ("stream", "astream"), GEMINI),
            ("google", ("invoke", "ainvoke"), {fault: answer for fault, answer in GEMINI.items() if answer}),
        )
        for fault, answer in faults.items()
    ],
)
def test_the_application_sees_the_same_as_uninstrumented(
    registry: ModelForgeRegistry,
    instrument: Instrument,
    metric_reader: InMemoryMetricReader,
    wire: Wire,
    provider_server: ProviderServer,
    provider: str,
    modes: tuple[str, ...],
    fault: str,
    answer: Answer | Sequence[bytes],
) -> None:
    if provider == "google":
        provider_server.reply = Reply(serialized=cast("Sequence[bytes]", answer))
    else:
        wire.answer = cast("Answer", answer)

    def call() -> tuple[Any, list[str]]:
        llm = without_retries(get_llm(registry, provider, MODELS[provider]))
        wire.paths, earlier = [], len(provider_server.requests)
        said = [seen(CALLS[mode], llm) for mode in modes]
        return said, wire.paths + [request.path for request in provider_server.requests[earlier:]]

    before, asked = call()
    telemetry = instrument()
    after, asked_again = call()
    assert after == before
    assert asked_again == asked
    assert len(asked) >= len(modes)

    spans = model_spans(telemetry.spans())
    for span, mode, (_, errors) in zip(spans, modes, after, strict=True):
        failed = errors and not (mode.endswith("invoke") and fault in NO_CHOICE)
        error = errors[0][0].removeprefix("builtins.") if failed else None
        check_call(span, mode.endswith("stream"), error, None if error else ERROR_ANSWERS.get(fault))
    counted: Counter[str] = Counter()
    for attributes in (span.attributes or {} for span in spans):
        if not attributes.get("modelforge.usage.estimated"):
            counted.update({kind: attributes[name] for name, kind in USAGE_ATTRIBUTES.items() if name in attributes})
    assert tokens(telemetry) == counted
    durations = telemetry.metrics()["gen_ai.client.operation.duration"]
    assert sum(point.count for point in durations) == len(modes)
    check_encoding(telemetry.spans(), metric_reader)


# --- A stream that never ends ---


def endless(connection: socket.socket) -> None:
    connection.sendall(sse(b""))
    while True:
        connection.sendall(event({"content": "Hello"}))


def silent(connection: socket.socket) -> None:
    connection.sendall(sse(event({"content": "Hello"})))
    # The client sends nothing more until it disconnects.
    connection.recv(1)
    raise ConnectionAbortedError


def mute(connection: socket.socket) -> None:
    connection.recv(1)
    raise ConnectionAbortedError


def close(llm: Any, chunks: list[Any]) -> None:
    stream = llm.stream("Hi")
    chunks += [next(stream), next(stream)]
    stream.close()


def drop(llm: Any, chunks: list[Any]) -> None:
    for chunk in llm.stream("Hi"):
        chunks.append(chunk)
        if len(chunks) == 2:
            break


def aclose(llm: Any, chunks: list[Any]) -> None:
    async def consume() -> None:
        stream = llm.astream("Hi")
        chunks.extend([await anext(stream), await anext(stream)])
        await stream.aclose()

    asyncio.run(consume())


def cancel(llm: Any, chunks: list[Any]) -> None:
    async def consume() -> None:
        arrived = asyncio.Event()

        async def read() -> None:
            async for chunk in llm.astream("Hi"):
                if len(chunks) < 2:
                    chunks.append(chunk)
                arrived.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(arrived.wait(), TIMEOUT)
        task.cancel()
        await task

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(consume())
    # The number that had arrived depends on the scheduler.
    del chunks[1:]


def time_out(llm: Any, chunks: list[Any]) -> None:
    async def consume() -> None:
        async with asyncio.timeout(None) as timeout:
            asked = asyncio.create_task(asyncio.to_thread(ASKED.wait, TIMEOUT))
            asked.add_done_callback(lambda _: timeout.reschedule(0))
            await _collect(llm.astream("Hi"), [])

    asyncio.run(consume())


def time_out_of_the_client(llm: Any, chunks: list[Any]) -> None:
    """Wait for the next bytes only as long as the client's timeout."""
    chunks.extend(llm.bind(timeout=0.2).invoke("Hi"))


def time_out_of_the_client_in_a_stream(llm: Any, chunks: list[Any]) -> None:
    for chunk in llm.stream("Hi", timeout=1):
        chunks.append(chunk)


@pytest.mark.parametrize(
    ("give_up", "answer", "outcome"),
    [
        (close, endless, "closed"),
        (drop, endless, "closed"),
        (aclose, endless, "closed"),
        (cancel, endless, "cancelled"),
        (cancel, silent, "cancelled"),
        (time_out, endless, "cancelled"),
        (time_out, silent, "cancelled"),
        (time_out, mute, "cancelled"),
        (time_out_of_the_client, mute, "failed"),
        (time_out_of_the_client_in_a_stream, mute, "failed"),
        (time_out_of_the_client_in_a_stream, silent, "failed"),
    ],
)
def test_giving_up_a_stream_has_the_same_result_as_uninstrumented(
    registry: ModelForgeRegistry,
    instrument: Instrument,
    metric_reader: InMemoryMetricReader,
    wire: Wire,
    give_up: Callable[[Any, list[Any]], None],
    answer: Callable[[socket.socket], None],
    outcome: str,
) -> None:
    wire.answer = answer
    ASKED.clear()
    before = seen(give_up, without_retries(get_llm(registry)))
    # OpenAI's asynchronous client keeps the connection of a closed stream.
    assert give_up is aclose or wire.gone.wait(TIMEOUT)
    wire.gone.clear()
    ASKED.clear()
    telemetry = instrument()
    after = seen(give_up, without_retries(get_llm(registry)))
    assert after == before
    assert give_up is aclose or wire.gone.wait(TIMEOUT)
    await_dropped()
    span = telemetry.span(MODEL_SPAN)
    attributes = span.attributes or {}
    assert attributes["modelforge.outcome"] == outcome
    assert (span.status.status_code is StatusCode.ERROR) is (outcome != "closed")
    assert tokens(telemetry) == {}
    check_encoding(telemetry.spans(), metric_reader)


# --- Ten megabytes ---

LARGE = "abcdefghi " * (1 << 20)
LIMIT = 1 << 18
"""Bytes that may remain after a call: caches of the libraries, and the span that the exporter keeps."""


@pytest.mark.parametrize("mode", CALLS)
def test_nothing_is_kept_of_a_large_answer(
    registry: ModelForgeRegistry, instrumented: Telemetry, wire: Wire, mode: str
) -> None:
    llm = without_retries(get_llm(registry))

    def call(content: str) -> list[weakref.ref[Any]]:
        wire.answer = sse(events(content)) if streamed else http(completion(content))
        chunks: list[Any] = []
        CALLS[mode](llm, chunks)
        assert content in [chunk.content for chunk in chunks]
        return [weakref.ref(chunk) for chunk in chunks]

    streamed = mode.endswith("stream")
    call("Hello")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        witnesses = call(LARGE)
        wire.answer = b""
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert [witness() for witness in witnesses] == [None] * len(witnesses)
    assert left < LIMIT
    for span in instrumented.spans():
        assert len(str(span.attributes)) + len(str([event.attributes for event in span.events])) < 10_000


@pytest.mark.parametrize("end", ["exhausted", "closed"])
def test_a_finished_stream_keeps_nothing_of_its_call(
    registry: ModelForgeRegistry, instrumented: Telemetry, wire: Wire, end: str
) -> None:
    wire.answer = sse(events())
    prompt = HumanMessage("Hi")
    stream = get_llm(registry).stream([prompt])
    witnesses = [weakref.ref(prompt), weakref.ref(next(stream)), weakref.ref(next(stream))]
    del prompt
    if end == "closed":
        stream.close()
    else:
        witnesses += [weakref.ref(chunk) for chunk in stream]
    gc.collect()
    assert [witness() for witness in witnesses] == [None] * len(witnesses)


# --- Values from LangChain ---


def looped() -> dict[str, Any]:
    """Return a mapping that contains itself under every key."""
    mapping: dict[str, Any] = {}
    for key in KEYS:
        mapping[key] = mapping
    return mapping


TEXT = st.text(max_size=4) | st.sampled_from(["\ud800", "x" * 100_000, "\0"])
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**70), 2**63, 2**63 - 1, -1])
    | st.floats()
    | TEXT
    | st.binary(max_size=3)
    | st.builds(object)
    | st.builds(looped),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=4),
    max_leaves=8,
)
MAPPING = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6)
MESSAGE = st.builds(
    AIMessageChunk.model_construct,
    content=ANYTHING,
    id=ANYTHING,
    tool_calls=ANYTHING,
    usage_metadata=MAPPING | ANYTHING,
    response_metadata=MAPPING | ANYTHING,
)
GENERATION = st.builds(
    ChatGenerationChunk.model_construct, text=ANYTHING, message=MESSAGE | ANYTHING, generation_info=MAPPING | ANYTHING
)


@dataclass(frozen=True, repr=False)
class Example:
    """A value of any kind that Hypothesis can print."""

    value: Any

    def __repr__(self) -> str:
        return f"Example({shown(self.value)})"


RESULT = st.builds(
    LLMResult.model_construct,
    generations=st.lists(st.lists(GENERATION | ANYTHING, max_size=2) | ANYTHING, max_size=2) | ANYTHING,
    llm_output=MAPPING | ANYTHING,
)
POSITIONS: dict[str, Callable[[OpenTelemetryCallback, Any, uuid.UUID], object]] = {
    "on_llm_end": lambda callback, result, run: callback.on_llm_end(result, run_id=run),
    "on_llm_error": lambda callback, result, run: callback.on_llm_error(ValueError("x"), run_id=run, response=result),
    "on_llm_new_token": lambda callback, chunk, run: callback.on_llm_new_token(chunk, run_id=run, chunk=chunk),
}
EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def callback(tracer_provider: TracerProvider, meter_provider: MeterProvider) -> OpenTelemetryCallback:
    return OpenTelemetryCallback(
        "openai", "gpt-4o-mini", tracer_provider=tracer_provider, meter_provider=meter_provider
    )


def call_of(
    callback: OpenTelemetryCallback,
    exporter: InMemorySpanExporter,
    end: Callable[[uuid.UUID], object],
    params: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> ReadableSpan:
    """Make a call that ends with ``end``, and return its only span."""
    exporter.clear()
    run = uuid.uuid4()
    callback.on_chat_model_start(
        {}, [[HumanMessage("Hi")]], run_id=run, invocation_params=params or {}, metadata=metadata
    )
    end(run)
    assert run not in open_calls
    (span,) = exporter.get_finished_spans()
    return span


def forgive(caplog: pytest.LogCaptureFixture) -> None:
    """Ignore our own logged faults for answers that no client produces, but not those of the encoder."""
    records = caplog.get_records("call")
    records[:] = [record for record in records if "Telemetry fault" not in record.getMessage()]


@EXAMPLES
@given(st.sampled_from(list(POSITIONS)), st.builds(Example, RESULT | GENERATION | ANYTHING))
@example("on_llm_end", Example(LLMResult(generations=[])))
@example("on_llm_end", Example(LLMResult(generations=[[]])))
@example("on_llm_end", Example(None))
@example("on_llm_error", Example(LLMResult.model_construct(generations=None)))
def test_whatever_langchain_reports_the_call_ends_and_its_span_can_be_exported(
    caplog: pytest.LogCaptureFixture,
    callback: OpenTelemetryCallback,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    position: str,
    reported: Example,
) -> None:
    def end(run: uuid.UUID) -> None:
        POSITIONS[position](callback, reported.value, run)
        if position == "on_llm_new_token":
            callback.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage("Hi"))]]), run_id=run)

    span = call_of(callback, span_exporter, end)
    attributes = span.attributes or {}
    assert attributes["modelforge.outcome"] == ("failed" if position == "on_llm_error" else "completed")
    check_types(attributes)
    check_encoding([span], metric_reader)
    forgive(caplog)


ANSWER = ANYTHING | st.builds(
    ChatResult.model_construct,
    generations=st.lists(GENERATION, max_size=2) | ANYTHING,
    llm_output=MAPPING | ANYTHING,
)


class Answers(BaseChatModel):
    """Answers with a given value."""

    result: Any

    @property
    def _llm_type(self) -> str:
        return "answers"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.result


@EXAMPLES
@given(st.builds(Example, ANSWER))
def test_whatever_a_model_answers_the_application_sees_the_same_as_uninstrumented(
    caplog: pytest.LogCaptureFixture,
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    callback: OpenTelemetryCallback,
    answer: Example,
) -> None:
    llm = Answers.model_construct(result=answer.value)
    before = seen(CALLS["invoke"], llm)
    instrumentor = ModelForgeInstrumentor()
    instrumentor.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider, skip_dep_check=True)
    try:
        after = seen(CALLS["invoke"], llm.model_copy(update={"callbacks": [callback]}))
    finally:
        instrumentor.uninstrument()
    assert after == before
    assert open_calls == {}
    (span,) = span_exporter.get_finished_spans()
    span_exporter.clear()
    check_types(span.attributes or {})
    check_encoding([span], metric_reader)
    forgive(caplog)


PARAMETERS = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "num_predict",
    "stop",
    "seed",
    "frequency_penalty",
    "n",
    "response_format",
    "format",
    "response_mime_type",
    "modalities",
    "model",
    "options",
)
CONVERSATION = ("thread_id", "session_id", "conversation_id")
WRONG_PARAMETERS = {
    "temperature": object(),
    "top_p": float("nan"),
    "stop": [1, None, "end", "\ud800"],
    "seed": "x",
    "max_tokens": 2**64,
    "n": b"2",
    "modalities": [[], 1],
    "options": {"seed": -(2**70)},
    5: 6,
}


@EXAMPLES
@given(
    st.builds(Example, st.dictionaries(st.sampled_from(PARAMETERS), ANYTHING, max_size=6)),
    st.builds(Example, st.dictionaries(st.sampled_from(CONVERSATION), ANYTHING, max_size=2)),
)
@example(Example(WRONG_PARAMETERS), Example({"thread_id": "\ud800"}))
@example(Example({"top_p": 0.5}), Example({"thread_id": 10**5_000}))
def test_whatever_is_requested_the_span_can_be_exported(
    callback: OpenTelemetryCallback,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    params: Example,
    metadata: Example,
) -> None:
    answer = LLMResult(generations=[[ChatGeneration(message=AIMessage("Hi"))]])
    end = lambda run: callback.on_llm_end(answer, run_id=run)  # noqa: E731
    span = call_of(callback, span_exporter, end, params.value, metadata.value)
    attributes = span.attributes or {}
    assert attributes["modelforge.outcome"] == "completed"
    for name, kind in (("temperature", float), ("top_p", float), ("top_k", int), ("max_tokens", int), ("seed", int)):
        assert type(attributes.get(f"gen_ai.request.{name}", kind())) is kind
    check_encoding([span], metric_reader)


@EXAMPLES
@given(st.builds(Example, ANYTHING))
def test_an_attribute_is_rejected_or_can_be_exported(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    attribute: Example,
) -> None:
    instrumentor = ModelForgeInstrumentor()
    options = {name: {"ours": attribute.value} for name in ("attributes", "metric_attributes")}
    try:
        instrumentor.instrument(
            tracer_provider=tracer_provider, meter_provider=meter_provider, skip_dep_check=True, **options
        )
    except (TypeError, ValueError):
        return
    try:
        answer = LLMResult(generations=[[ChatGeneration(message=AIMessage("Hi"))]])
        callback = OpenTelemetryCallback("openai", "gpt-4o-mini")
        span = call_of(callback, span_exporter, lambda run: callback.on_llm_end(answer, run_id=run))
    finally:
        instrumentor.uninstrument()
    assert "ours" in (span.attributes or {})
    check_encoding([span], metric_reader)


# --- Warnings ---

APPLICATION = """
import asyncio, importlib, pkgutil, sys, warnings

PACKAGE = "opentelemetry_instrumentation_modelforge"
LIBRARIES = ("warnings", "typing_extensions", "opentelemetry.", "wrapt", "genai_prices")

def show(message, category, filename, lineno, file=None, line=None):
    # Who called what warns, whomever it blames.
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals["__name__"].startswith(LIBRARIES):
        frame = frame.f_back
    if frame is not None and frame.f_globals["__name__"].startswith(PACKAGE):
        print(category.__name__, message)

warnings.showwarning = show
warnings.simplefilter("always")
package = importlib.import_module(PACKAGE)
for module in pkgutil.iter_modules(package.__path__, PACKAGE + "."):
    importlib.import_module(module.name)

from modelforge import ModelForgeRegistry
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

package.ModelForgeInstrumentor().instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider())
llm = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini")

async def call():
    await llm.ainvoke("Hi")
    await llm.abatch(["Hi"])
    async for _ in llm.astream("Hi"):
        pass

llm.invoke("Hi")
llm.batch(["Hi"])
list(llm.stream("Hi", stream_usage=True))
asyncio.run(call())
package.ModelForgeInstrumentor().uninstrument()
print("A warning of the package's own would be seen:", flush=True)
exec("warnings.warn('use the other', DeprecationWarning)", {"__name__": PACKAGE, "warnings": warnings})
"""


def test_the_package_uses_no_deprecated_api(
    provider_server: ProviderServer, model_config: dict[str, Any], python: Callable[..., Any]
) -> None:
    model_config["providers"]["openai"]["base_url"] = f"{provider_server.url}/v1"
    write_config(model_config)
    done = python(
        "-c",
        APPLICATION,
        OTEL_SEMCONV_STABILITY_OPT_IN="gen_ai_latest_experimental",
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="span_and_event",
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " - INFO - " not in line]
    assert lines == ["A warning of the package's own would be seen:", "DeprecationWarning use the other"]
