# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Servers on the loopback interface that implement the protocol of each provider ModelForge supports.

One `ProviderServer` serves all of them: OpenAI, OpenRouter, Ollama, GitHub Copilot and models.dev over HTTP,
Google over gRPC. What it answers is scripted with a `Reply`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.ai import generativelanguage_v1beta as google
from google.protobuf.json_format import MessageToDict, ParseDict

HOST = "127.0.0.1"
CREATED = 1_700_000_000
COPILOT_PATH = "/chat/completions"
RESPONSES_PATH = "/responses"
TOKEN_PATH = "/login/oauth/access_token"
REFRESHED_TOKEN = "gho_refreshed0123456789abcdefghijklmnop"

# The data of models.dev, reduced to the fields ModelForge reads. Prices are dollars per million tokens.
CATALOGUE = {
    "openai": {
        "id": "openai",
        "name": "OpenAI",
        "env": ["OPENAI_API_KEY"],
        "models": {
            "gpt-4o-mini": {
                "name": "GPT-4o mini",
                "tool_call": True,
                "cost": {"input": 0.15, "output": 0.6, "cache_read": 0.08},
                "limit": {"context": 128_000, "output": 16_384},
            }
        },
    },
    "google": {
        "id": "google",
        "name": "Google",
        "env": ["GOOGLE_API_KEY"],
        "models": {
            "gemini-2.5-flash": {
                "name": "Gemini 2.5 Flash",
                "reasoning": True,
                "cost": {"input": 0.3, "output": 2.5, "cache_read": 0.075},
                "limit": {"context": 1_048_576, "output": 65_536},
            }
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One tool call in a reply."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A provider's reply. The defaults are a valid answer to any request.

    `hold_after` and `cut_after` count pieces of a streamed answer; a cut answer that is not streamed ends in the
    middle of its body. While an answer is held, `ProviderServer.held` is set.
    """

    text: str | None = None
    """None: a greeting, or an instance of the JSON schema in the request."""
    chunks: Sequence[str] | None = None
    """How a stream divides the text. None: one piece per word."""
    tool_calls: Sequence[ToolCall] | None = None
    """None: one call of the first tool offered, unless the conversation ends with a tool's result."""
    finish_reason: str | None = None
    """OpenAI's finish reason. None: `stop`, or `tool_calls`."""
    usage: bool | None = None
    """Whether to report token usage. None: as the provider does, so GitHub Copilot reports none."""
    input_tokens: int = 11
    cached_tokens: int = 4
    output_tokens: int = 7
    """Includes the reasoning tokens."""
    reasoning_tokens: int = 3
    cache_write_tokens: int | None = None
    """Cache writes as OpenRouter reports them."""
    cost: float | None = None
    """OpenRouter's `usage.cost`, in dollars."""
    model: str | None = None
    """The model that answered. None: a dated version of the one requested."""
    status: int = HTTPStatus.OK
    error_body: Mapping[str, Any] | str | None = None
    """None: an error in the provider's own format. For a 401 it quotes the key, as OpenAI does."""
    delay: float = 0
    """Seconds before each piece of a stream, or before a plain answer."""
    hold: bool = False
    """Hold everything, headers included, until `ProviderServer.release` is set."""
    hold_after: int | None = None
    """Hold the stream after this many pieces, until `ProviderServer.release` is set."""
    cut_after: int | None = None
    """Close the connection after this many pieces."""
    malformed: bool = False
    """Send invalid data instead of a plain answer, or after the first piece of a stream."""
    body: Mapping[str, Any] | None = None
    """The plain answer to send over HTTP, on any path."""
    events: Sequence[Mapping[str, Any]] | None = None
    """The streamed answer to send over HTTP: the data of each event, or Ollama's lines."""
    serialized: Sequence[bytes] | None = None
    """Google's responses to send: all of them in a stream, the last one as a plain answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as the server received it. Header names are in lower case; a gRPC body is in protobuf's JSON form."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class ConnectionCut(Exception):
    """Raised where the script closes the connection."""


class ProviderServer:
    """All the providers in one context manager, which answers with `reply`. `url` has no trailing slash."""

    def __init__(self) -> None:
        self.reply: Reply | Callable[[dict[str, Any]], Reply] = Reply()
        self.held = threading.Event()
        self.release = threading.Event()
        self._requests: list[Request] = []
        self._lock = threading.Lock()
        self._http = _HTTPServer(self)
        self._grpc, grpc_port = _grpc_server(self)
        self.port: int = self._http.server_address[1]
        self.url = f"http://{HOST}:{self.port}"
        self.google_port = grpc_port
        self.google_address = f"{HOST}:{grpc_port}"

    def __enter__(self) -> Self:
        self._grpc.start()
        # The poll interval determines how long shutdown() takes.
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(grace=None).wait()

    @property
    def requests(self) -> list[Request]:
        """The requests received until now, oldest first, including those for models.dev and for access tokens."""
        with self._lock:
            return list(self._requests)

    @property
    def request(self) -> Request:
        """The only request received."""
        (request,) = self.requests
        return request

    def record(self, path: str, headers: Iterable[tuple[str, Any]], body: dict[str, Any]) -> Request:
        """Add a request to those received."""
        request = Request(path=path, headers={name.lower(): value for name, value in headers}, body=body)
        with self._lock:
            self._requests.append(request)
        return request

    def script(self, request: Request) -> Reply:
        """Return the reply to a request once it may be answered."""
        reply = self.reply if isinstance(self.reply, Reply) else self.reply(request.body)
        if reply.hold:
            self._hold()
        return reply

    def paced(self, reply: Reply, pieces: Iterable[bytes], garbage: bytes) -> Iterator[bytes]:
        """Yield the pieces of a stream at the times, and up to the point, that the script defines."""
        for sent, piece in enumerate(pieces):
            if sent == reply.cut_after:
                raise ConnectionCut
            if sent == reply.hold_after:
                self._hold()
            time.sleep(reply.delay)
            if reply.malformed and sent == 1:
                yield garbage
                return
            yield piece

    def _hold(self) -> None:
        self.held.set()
        self.release.wait()


# --- HTTP ---


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, provider: ProviderServer) -> None:
        super().__init__((HOST, 0), _Handler)
        self.provider = provider

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log clients that disconnect in the middle of an answer, which are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small writes would otherwise wait for the client's delayed acknowledgements.
    disable_nagle_algorithm = True
    server: _HTTPServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self.server.provider.record(self.path, self.headers.items(), {})
        if self.path == "/api.json":
            self._send(HTTPStatus.OK, json.dumps(CATALOGUE).encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, b"{}")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == TOKEN_PATH:
            self.server.provider.record(self.path, self.headers.items(), {})
            token = {"access_token": REFRESHED_TOKEN, "token_type": "bearer", "expires_in": 28_800}
            self._send(HTTPStatus.OK, json.dumps(token).encode())
            return
        request = self.server.provider.record(self.path, self.headers.items(), json.loads(content))
        reply = self.server.provider.script(request)
        if reply.status != HTTPStatus.OK:
            self._send(reply.status, _error_body(request, reply))
        elif reply.body is not None and not request.body.get("stream"):
            self._send_plain(reply, json.dumps(reply.body).encode())
        elif reply.events is not None and self.path == "/api/chat":
            self._send_stream(reply, "application/x-ndjson", map(_line, reply.events))
        elif reply.events is not None:
            done = () if self.path.endswith(RESPONSES_PATH) else (b"data: [DONE]\n\n",)
            self._send_stream(reply, "text/event-stream", (*map(_event, reply.events), *done))
        elif self.path == "/api/chat":
            self._send_stream(reply, "application/x-ndjson", _ollama_lines(request.body, reply))
        elif not self.path.endswith(COPILOT_PATH):
            self._send(HTTPStatus.NOT_FOUND, b"{}")
        elif request.body.get("stream"):
            self._send_stream(reply, "text/event-stream", _openai_events(request, reply))
        else:
            self._send_plain(reply, json.dumps(_openai_completion(request, reply)).encode())

    def _start(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        # langchain-openai shares its HTTP clients between event loops, and a pooled connection outlives its loop.
        self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, status: int, body: bytes) -> None:
        self._start(status, Content_Type="application/json", Content_Length=len(body))
        self.wfile.write(body)

    def _send_plain(self, reply: Reply, body: bytes) -> None:
        time.sleep(reply.delay)
        if reply.malformed:
            body = body[: len(body) // 2]
        if reply.cut_after is None:
            self._send(HTTPStatus.OK, body)
        else:
            self._start(HTTPStatus.OK, Content_Type="application/json", Content_Length=len(body))
            self.wfile.write(body[: len(body) // 2])

    def _send_stream(self, reply: Reply, content_type: str, pieces: Iterable[bytes]) -> None:
        self._start(HTTPStatus.OK, Content_Type=content_type, Transfer_Encoding="chunked")
        with contextlib.suppress(ConnectionCut):
            for piece in self.server.provider.paced(reply, pieces, garbage=b'data: {"id": "chat\n\n'):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")


def _error_body(request: Request, reply: Reply) -> bytes:
    if isinstance(reply.error_body, str):
        return reply.error_body.encode()
    body = reply.error_body
    if body is None and request.path == "/api/chat":
        body = {"error": _error_message(request.body.get("model", ""), "", reply.status)}
    elif body is None:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = {
            "error": {
                "message": _error_message(request.body.get("model", ""), key, reply.status),
                "type": "invalid_request_error" if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
                "param": None,
                "code": "invalid_api_key" if reply.status == HTTPStatus.UNAUTHORIZED else None,
            }
        }
    return json.dumps(body).encode()


def _error_message(model: str, key: str, status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return f"Incorrect API key provided: {key}. You can find your API key in your account's settings."
    if status == HTTPStatus.NOT_FOUND:
        return f"model '{model}' not found"
    return HTTPStatus(status).phrase


# --- Answers of all providers ---


@dataclass(frozen=True, kw_only=True)
class _Answer:
    pieces: list[str]
    tool_calls: Sequence[ToolCall]
    finish_reason: str

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def _answer(
    reply: Reply,
    tools: Sequence[Mapping[str, Any]] = (),
    schema: Mapping[str, Any] | None = None,
    after_tool: bool = False,
) -> _Answer:
    """Fill in the unset fields of the reply. A tool is a mapping with `name` and `parameters`."""
    calls = reply.tool_calls
    if calls is None:
        calls = [] if after_tool else [ToolCall(name=t["name"], arguments=_example(t["parameters"])) for t in tools[:1]]
    text = reply.text
    if text is None and schema is not None:
        text = json.dumps(_example(schema))
    elif text is None:
        text = "" if calls else "Hello there friend"
    pieces = re.findall(r"\s*\S+", text) if reply.chunks is None else list(reply.chunks)
    return _Answer(
        pieces=pieces, tool_calls=calls, finish_reason=reply.finish_reason or ("tool_calls" if calls else "stop")
    )


def _example(schema: Mapping[str, Any]) -> Any:
    """Return a value that satisfies a simple JSON schema."""
    match str(schema.get("type", "string")).lower():
        case "object":
            return {name: _example(value) for name, value in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema["items"])]
        case "integer" | "number":
            return 21
        case "boolean":
            return True
        case _:
            return schema.get("enum", ["Paris"])[0]


# --- OpenAI, and the providers that use its protocol ---


def _openai_answer(body: Mapping[str, Any], reply: Reply) -> _Answer:
    response_format = body.get("response_format", {})
    return _answer(
        reply,
        tools=[tool["function"] for tool in body.get("tools", ())],
        schema=response_format["json_schema"]["schema"] if response_format.get("type") == "json_schema" else None,
        after_tool=body["messages"][-1]["role"] == "tool",
    )


def _openai_envelope(body: Mapping[str, Any], reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx",
        "object": kind,
        "created": CREATED,
        "model": reply.model or f"{body['model']}-2024-07-18",
        "system_fingerprint": "fp_0123456789",
    }


def _openai_usage(request: Request, reply: Reply) -> dict[str, Any] | None:
    if reply.usage is False or (reply.usage is None and request.path == COPILOT_PATH):
        return None
    usage = {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": reply.cached_tokens,
            "audio_tokens": 0,
            **({} if reply.cache_write_tokens is None else {"cache_write_tokens": reply.cache_write_tokens}),
        },
        "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens, "audio_tokens": 0},
    }
    return usage if reply.cost is None else {**usage, "cost": reply.cost}


def _openai_tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for index, call in enumerate(calls)
    ]


def _openai_completion(request: Request, reply: Reply) -> dict[str, Any]:
    answer = _openai_answer(request.body, reply)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = _openai_tool_calls(answer.tool_calls)
    usage = _openai_usage(request, reply)
    return {
        **_openai_envelope(request.body, reply, "chat.completion"),
        "choices": [
            {"index": index, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
            for index in range(request.body.get("n") or 1)
        ],
        **({"usage": usage} if usage else {}),
    }


def _openai_events(request: Request, reply: Reply) -> Iterator[bytes]:
    answer = _openai_answer(request.body, reply)
    envelope = _openai_envelope(request.body, reply, "chat.completion.chunk")
    indexes = range(request.body.get("n") or 1)

    def events(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return b"".join(
            _event({**envelope, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]})
            for index in indexes
        )

    deltas: list[dict[str, Any]] = [{"content": piece} for piece in answer.pieces]
    for index, call in enumerate(_openai_tool_calls(answer.tool_calls)):
        arguments = call["function"]["arguments"]
        start = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        deltas.append({"tool_calls": [start]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": part}}]}
            for part in (arguments[:4], arguments[4:])
        ]
    # The event that only opens the message is sent with the first piece, so that pieces can be counted.
    opening = events({"role": "assistant", "content": ""})
    for delta in deltas:
        yield opening + events(delta)
        opening = b""
    end = opening + events({}, answer.finish_reason)
    usage = _openai_usage(request, reply)
    # OpenRouter reports usage, with the cost, whether or not it was requested.
    if usage and (request.body.get("stream_options", {}).get("include_usage") or reply.cost is not None):
        end += _event({**envelope, "choices": [], "usage": usage})
    yield end + b"data: [DONE]\n\n"


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(data).encode()


# --- Ollama ---


def _ollama_lines(body: Mapping[str, Any], reply: Reply) -> Iterator[bytes]:
    answer = _answer(reply)
    envelope = {"model": reply.model or body["model"], "created_at": "2023-11-14T22:13:20.000000Z"}
    for piece in answer.pieces:
        yield _line({**envelope, "message": {"role": "assistant", "content": piece}, "done": False})
    end = {
        **envelope,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": answer.finish_reason,
        "total_duration": 5_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_duration": 2_000_000,
        "eval_duration": 2_000_000,
    }
    if reply.usage is not False:
        end |= {"prompt_eval_count": reply.input_tokens, "eval_count": reply.output_tokens}
    yield _line(end)


def _line(data: Mapping[str, Any]) -> bytes:
    return b"%s\n" % json.dumps(data).encode()


# --- Google ---

GOOGLE_ID = "q7oYaZ6RLo2Cx_APyZbWkAs"
GOOGLE_TELLS_ID = hasattr(google.GenerateContentResponse(), "response_id")
"""Whether the client has a field for the id of an answer. The oldest has none."""
_SERVICE = "google.ai.generativelanguage.v1beta.GenerativeService"
_FINISH_REASONS = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUS_CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def _grpc_server(provider: ProviderServer) -> tuple[grpc.Server, int]:
    service = _GoogleService(provider)
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    methods = {
        "GenerateContent": grpc.unary_unary_rpc_method_handler(
            service.generate, google.GenerateContentRequest.deserialize
        ),
        "StreamGenerateContent": grpc.unary_stream_rpc_method_handler(
            service.stream, google.GenerateContentRequest.deserialize
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    key, certificate = _key_and_certificate()
    return server, server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([(key, certificate)]))


class _GoogleService:
    """Answers in serialized form, so that it can also send invalid data."""

    _garbage = b"\xff"

    def __init__(self, provider: ProviderServer) -> None:
        self._provider = provider

    def generate(self, message: google.GenerateContentRequest, context: grpc.ServicerContext) -> bytes:
        body, reply = self._receive("GenerateContent", message, context)
        time.sleep(reply.delay)
        if reply.cut_after is not None:
            _reset(context)
        if reply.malformed:
            return self._garbage
        if reply.serialized is not None:
            return reply.serialized[-1]
        answer = _google_answer(body, reply)
        return _google_response(
            body, reply, answer.text, answer.tool_calls, _google_finish_reason(answer), reply.output_tokens
        )

    def stream(self, message: google.GenerateContentRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        body, reply = self._receive("StreamGenerateContent", message, context)
        responses: Iterable[bytes] | None = reply.serialized
        if responses is None:
            responses = (_google_response(body, reply, *piece) for piece in _google_pieces(body, reply))
        try:
            yield from self._provider.paced(reply, responses, self._garbage)
        except ConnectionCut:
            _reset(context)

    def _receive(
        self, method: str, message: google.GenerateContentRequest, context: grpc.ServicerContext
    ) -> tuple[dict[str, Any], Reply]:
        body = MessageToDict(google.GenerateContentRequest.pb(message))
        metadata = [(item.key, item.value) for item in context.invocation_metadata()]
        request = self._provider.record(f"/{_SERVICE}/{method}", metadata, body)
        reply = self._provider.script(request)
        if reply.status != HTTPStatus.OK:
            code = _STATUS_CODES.get(HTTPStatus(reply.status), grpc.StatusCode.INTERNAL)
            default = _error_message(body["model"], request.headers.get("x-goog-api-key", ""), reply.status)
            context.abort(code, str(reply.error_body or default))
        return body, reply


def _reset(context: grpc.ServicerContext) -> NoReturn:
    # gRPC reports this for a reset stream. It reports UNAVAILABLE for a closed socket, which Google's client retries.
    context.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")


def _google_answer(body: Mapping[str, Any], reply: Reply) -> _Answer:
    return _answer(
        reply,
        tools=[function for tool in body.get("tools", ()) for function in tool.get("functionDeclarations", ())],
        schema=body.get("generationConfig", {}).get("responseSchema"),
        after_tool="functionResponse" in body["contents"][-1]["parts"][-1],
    )


def _google_pieces(body: Mapping[str, Any], reply: Reply) -> Iterator[tuple[str, Sequence[ToolCall], str | None, int]]:
    """Yield the text, tool calls, finish reason and output tokens so far for each response of a stream."""
    answer = _google_answer(body, reply)
    for count, piece in enumerate(answer.pieces, start=1):
        yield piece, (), None, reply.reasoning_tokens + count
    yield "", answer.tool_calls, _google_finish_reason(answer), reply.output_tokens


def _google_finish_reason(answer: _Answer) -> str:
    return _FINISH_REASONS.get(answer.finish_reason, "STOP")


def google_response(fields: Mapping[str, Any]) -> bytes:
    """Serialize a Gemini response that is given in protobuf's JSON form."""
    response = google.GenerateContentResponse()
    ParseDict(fields, google.GenerateContentResponse.pb(response), ignore_unknown_fields=True)
    return google.GenerateContentResponse.serialize(response)


def _google_response(
    body: Mapping[str, Any],
    reply: Reply,
    text: str,
    calls: Sequence[ToolCall],
    finish_reason: str | None,
    output_tokens: int,
) -> bytes:
    parts = [google.Part(text=text)] if text or not calls else []
    parts += [google.Part(function_call=google.FunctionCall(name=call.name, args=call.arguments)) for call in calls]
    usage = google.GenerateContentResponse.UsageMetadata(
        prompt_token_count=reply.input_tokens,
        cached_content_token_count=reply.cached_tokens,
        # Google counts thoughts separately from the answer.
        candidates_token_count=output_tokens - reply.reasoning_tokens,
        thoughts_token_count=reply.reasoning_tokens,
        total_token_count=reply.input_tokens + output_tokens,
    )
    response = google.GenerateContentResponse(
        candidates=[
            google.Candidate(
                index=index,
                content=google.Content(role="model", parts=parts),
                finish_reason=google.Candidate.FinishReason[finish_reason] if finish_reason else None,
            )
            for index in range(body.get("generationConfig", {}).get("candidateCount", 1))
        ],
        usage_metadata=None if reply.usage is False else usage,
        model_version=reply.model or f"{body['model'].removeprefix('models/')}-001",
        **({"response_id": GOOGLE_ID} if GOOGLE_TELLS_ID else {}),
    )
    return google.GenerateContentResponse.serialize(response)


# --- The certificate of the gRPC server. API keys are only sent over TLS. ---


@cache
def _key_and_certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def certificate() -> bytes:
    """Return the certificate to trust, in PEM format. gRPC reads its trusted roots only before the first connection."""
    return _key_and_certificate()[1]


def unused_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
