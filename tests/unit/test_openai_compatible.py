# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`ChatOpenAI`: the taps for its raw answers, the parameters it sends, and its credentials."""

from __future__ import annotations

import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from opentelemetry_instrumentation_modelforge.providers.openai_api import OpenAIAnswer
from opentelemetry_instrumentation_modelforge.providers.openai_compatible import OpenAICompatible
from opentelemetry_instrumentation_modelforge.response import Usage
from support.openai_answers import TOKENS, chunk, completion, read

if TYPE_CHECKING:
    from collections.abc import Iterator

PROVIDER = OpenAICompatible()


# --- The taps ---


class Invoice(BaseModel):
    number: int


class Server(ThreadingHTTPServer):
    daemon_threads = True
    body: dict[str, Any] | list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body, kind = json.dumps(self.server.body), "application/json"
        if isinstance(self.server.body, list):
            events = [*map(json.dumps, self.server.body), "[DONE]"]
            body, kind = "".join(f"data: {event}\n\n" for event in events), "text/event-stream"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def client(server: Server, **fields: Any) -> ChatOpenAI:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return ChatOpenAI(model="gpt-4o-mini", api_key="sk-none", base_url=url, max_retries=0, **fields)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> OpenAIAnswer:
    """Return the answer of the test's call, which the provider's tap fills."""
    answer = OpenAIAnswer()
    (tap,) = PROVIDER.taps
    owner = openai._base_client.BaseClient
    assert (tap.module, tap.owner) == (owner.__module__, owner.__name__)
    original = getattr(owner, tap.name)

    def tapped(*args: Any, **kwargs: Any) -> object:
        answer.add(args[tap.position] if len(args) > tap.position else kwargs[tap.keyword])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, tap.name, tapped)
    return answer


def test_a_call_is_tapped(server: Server, answer: OpenAIAnswer) -> None:
    server.body = completion()
    client(server).invoke("Hi")
    assert answer.response((), None) == read(completion())


def test_a_stream_is_tapped(server: Server, answer: OpenAIAnswer) -> None:
    server.body = [chunk(), chunk("stop"), chunk(choices=[], usage=TOKENS)]
    list(client(server, stream_usage=True).stream("Hi"))
    assert answer.response((), None) == read(*server.body)
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_a_structured_answer_that_cannot_be_parsed_has_usage(server: Server, answer: OpenAIAnswer, reason: str) -> None:
    message = {"role": "assistant", "content": '{"number": "none"}'}
    server.body = completion(choices=[{"index": 0, "message": message, "finish_reason": reason}])
    with pytest.raises((ValueError, openai.OpenAIError)):
        client(server).with_structured_output(Invoice, method="json_schema").invoke("Hi")
    assert answer.response((), None) == read(server.body)
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_structured_stream_that_is_cut_short_has_its_reason(
    server: Server, answer: OpenAIAnswer, reason: str
) -> None:
    server.body = [chunk(), chunk(reason)]
    with pytest.raises(openai.OpenAIError):
        list(client(server).with_structured_output(Invoice, method="json_schema").stream("Hi"))
    assert answer.response((), None).finish_reasons == (reason,)


# --- The client ---


def test_the_url_is_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_BASE", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other:1/v1")
    assert PROVIDER.client_url(vars(ChatOpenAI(api_key="k", base_url="http://host:8/v1"))) == "http://host:8/v1/"
    assert PROVIDER.client_url(vars(ChatOpenAI(api_key="k"))) == "http://other:1/v1/"
    assert PROVIDER.client_url({"root_client": MagicMock()}) is None
    assert PROVIDER.client_url({}) is None


def test_headers_and_the_proxy_may_contain_credentials_too() -> None:
    llm = ChatOpenAI(api_key="key-1", default_headers={"x-key": "key-2"}, openai_proxy="http://u:key-3@proxy:1")
    values = (value for value in PROVIDER.client_credentials(vars(llm)) if value is not None)
    key, *others = cast("Iterator[Any]", values)
    assert key.get_secret_value() == "key-1"
    assert others == [{"x-key": "key-2"}, "http://u:key-3@proxy:1"]


def test_usage_is_requested_as_by_the_application() -> None:
    llm, same = (ChatOpenAI(api_key="k", base_url="http://host/v1") for _ in range(2))
    PROVIDER.request_stream_usage(llm)
    same.stream_usage = True
    assert llm.stream_usage is True
    assert llm.model_fields_set == same.model_fields_set
    assert pickle.loads(pickle.dumps(llm.model_dump())) == same.model_dump()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stream_usage": False}, False),
        ({"model_kwargs": {"stream_options": {"include_usage": False}}}, False),
        ({"model_kwargs": {"stream_options": {"chunk_size": 1}}}, True),
    ],
)
def test_an_applications_decision_on_usage_is_not_changed(fields: dict[str, Any], expected: bool) -> None:
    llm = ChatOpenAI(api_key="k", base_url="http://host/v1", **fields)
    PROVIDER.request_stream_usage(llm)
    assert bool(llm.stream_usage) is expected


@pytest.mark.parametrize("other", [object(), MagicMock(), SimpleNamespace()])
def test_requesting_usage_of_an_object_that_is_not_a_model_has_no_effect(other: object) -> None:
    PROVIDER.request_stream_usage(other)


def sent(llm: ChatOpenAI, **kwargs: Any) -> dict[str, object]:
    merged: dict[str, object] = {}
    for params in PROVIDER.request_parameters(llm._get_invocation_params(**kwargs), vars(llm)):
        merged |= params
    return merged


@pytest.mark.parametrize(
    ("fields", "kwargs", "name", "expected"),
    [
        ({"max_tokens": 50}, {}, "max_completion_tokens", 50),
        ({"max_tokens": 50}, {"max_tokens": 20}, "max_completion_tokens", 20),
        ({"max_tokens": 50}, {"max_completion_tokens": 20}, "max_completion_tokens", 20),
        ({"max_tokens": 50}, {"max_tokens": None}, "max_completion_tokens", None),
        ({"temperature": 0.5}, {"temperature": 1.0}, "temperature", 1.0),
        ({"model_kwargs": {"modalities": ["audio"]}}, {}, "modalities", ["audio"]),
        ({"model_kwargs": {"modalities": ["audio"]}}, {"modalities": ["text"]}, "modalities", ["text"]),
        ({"extra_body": {"top_k": 40}}, {}, "top_k", 40),
        ({"extra_body": {"seed": 3}, "seed": 2}, {}, "seed", 3),
        ({"extra_body": {"reasoning": {"effort": "high"}}}, {}, "reasoning_effort", "high"),
        ({"reasoning_effort": "low"}, {}, "reasoning_effort", "low"),
        ({}, {"reasoning": {"effort": "high"}}, "reasoning_effort", "high"),
        ({}, {"previous_response_id": "resp_1"}, "previous_response_id", "resp_1"),
        ({}, {"text": {"format": {"type": "json_schema"}}}, "response_format", {"type": "json_schema"}),
    ],
)
def test_the_parameters_are_those_that_are_sent(
    fields: dict[str, Any], kwargs: dict[str, Any], name: str, expected: object
) -> None:
    assert sent(ChatOpenAI(api_key="k", base_url="http://host/v1", **fields), **kwargs)[name] == expected


def test_the_requested_model_is_that_of_the_extra_body() -> None:
    assert PROVIDER.requested_model({"model": "a", "extra_body": {"model": "b"}}, {}) == "b"
    assert PROVIDER.requested_model({"model": "a", "extra_body": {"model": None}}, {}) == "a"
