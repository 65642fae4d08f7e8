# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""What telemetry records about an exception, and what it never records."""

from __future__ import annotations

import asyncio
import errno
import json
import linecache
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import grpc
import httpx
import openai
import pytest
import requests
from google.api_core import exceptions as google_exceptions
from hypothesis import given
from hypothesis import strategies as st
from modelforge import exceptions as modelforge_exceptions
from opentelemetry.semconv.attributes import exception_attributes
from pydantic import BaseModel, TypeAdapter

from opentelemetry_instrumentation_modelforge.errors import (
    ErrorDescription,
    describe_error,
    error_type,
    fault_text,
)
from support.models import GOOGLE_KEY, OPENAI_KEY

PROMPT = "Tell no one: the purple heron nests 'behind' the \"third\" windmill\nat Ljubljanska Straße 12"
REQUEST = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")


def caught(action: Callable[[], object]) -> BaseException:
    """Return what ``action`` raises."""
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def raiser(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


def chained(error: BaseException, cause: BaseException | None = None, context: BaseException | None = None) -> Any:
    error.__context__ = context
    if cause is not None:
        # Setting it suppresses the context.
        error.__cause__ = cause
    return error


def api_error(
    kind: type[openai.APIStatusError] = openai.BadRequestError,
    status: int = 400,
    headers: Mapping[str, str] | None = None,
    **body: object,
) -> openai.APIStatusError:
    response = httpx.Response(status, request=REQUEST, headers=headers)
    return kind(f"Error code: {status} - {body}", response=response, body=body)


class Answer(BaseModel):
    number: int


def attributed(**attributes: object) -> Exception:
    error = openai.APIError(PROMPT, REQUEST, body=None)
    vars(error).update(attributes)
    return error


def noted(*notes: str) -> Exception:
    error = ValueError("noted")
    for note in notes:
        error.add_note(note)
    return error


def compiled_with_a_name(filename: str) -> object:
    return eval(compile("1 / 0", filename, "eval"))


def in_a_function_named(name: str) -> object:
    def fail() -> object:
        raise LookupError(PROMPT)

    fail.__code__ = fail.__code__.replace(co_name=name, co_qualname=name)
    return fail()


def with_locals() -> object:
    prompt, messages = PROMPT, [{"content": PROMPT}]
    return {}[f"{prompt}{messages}"]


def http_error(body: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = 500
    response._content = body.encode()
    response.url = f"https://host/?q={quote(body)}"
    return requests.HTTPError(body, response=response)


class RpcError(grpc.RpcError):
    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self) -> str:
        return self._details


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "x")
    error.reason = reason
    return error


BASE64 = "VGVsbCBubyBvbmU6IHRoZSBwdXJwbGUgaGVyb24gbmVzdHM"

LEAKS: dict[str, Callable[[], object]] = {
    "as it is": raiser(ValueError(PROMPT)),
    "as the key of a mapping": lambda: {}[PROMPT],
    "in the locals of a frame": with_locals,
    "percent-encoded": raiser(ValueError(quote(PROMPT))),
    "percent-encoded twice": raiser(ValueError(quote(quote(PROMPT)))),
    "in upper case": raiser(ValueError(PROMPT.upper())),
    "as JSON": raiser(ValueError(json.dumps(PROMPT))),
    "as JSON in JSON": raiser(ValueError(json.dumps(json.dumps(PROMPT)))),
    "as repr": raiser(ValueError(repr(PROMPT))),
    "as bytes": raiser(ValueError(PROMPT.encode())),
    "one word at a time": raiser(ValueError(*PROMPT.split())),
    "nested in the arguments": raiser(RuntimeError({"messages": [("human", {"content": PROMPT})]})),
    "in a mapping that a ValueError holds": raiser(ValueError({"message": PROMPT, "code": PROMPT, "type": PROMPT})),
    "in an error that a ValueError's mapping holds": raiser(ValueError({"error": {"code": PROMPT, "param": PROMPT}})),
    "as a mapping's key": raiser(ValueError({PROMPT: PROMPT})),
    "in a note": raiser(noted(PROMPT, repr(PROMPT))),
    "in the cause": raiser(chained(ValueError("x"), ValueError(PROMPT))),
    "in the context": raiser(chained(ValueError("x"), context=KeyError(PROMPT))),
    "in the cause of the cause": raiser(chained(ValueError("x"), chained(KeyError("y"), TypeError(PROMPT)))),
    "in a group": raiser(ExceptionGroup(PROMPT, [ValueError(PROMPT), KeyError(PROMPT)])),
    "in a group of groups": raiser(
        ExceptionGroup("x", [ExceptionGroup(PROMPT, [chained(ValueError("x"), KeyError(PROMPT))])])
    ),
    "in a group as the cause": raiser(chained(ValueError("x"), ExceptionGroup("y", [ValueError(PROMPT)]))),
    "as pydantic's input_value": lambda: Answer(number=PROMPT),  # type: ignore[arg-type]
    "as pydantic's JSON input": lambda: Answer.model_validate_json(PROMPT),
    "as pydantic's location": lambda: TypeAdapter(dict[str, int]).validate_python({PROMPT: "x"}),
    "as what is no JSON": lambda: json.loads(PROMPT),
    "as what is no number": lambda: int(PROMPT),
    "as a missing attribute": lambda: getattr(SimpleNamespace(), PROMPT),
    "as what cannot be decoded": lambda: (PROMPT.encode() + b"\xff").decode(),
    "as what cannot be encoded": lambda: (PROMPT + "\ud800").encode(),
    "as a lone surrogate and more": raiser(ValueError("\ud800" + PROMPT)),
    "as source that cannot be parsed": lambda: compile(PROMPT, "<prompt>", "exec"),
    "as the file of a SyntaxError": raiser(SyntaxError(PROMPT, (PROMPT, 1, 1, PROMPT))),
    "as a file that is missing": lambda: os.stat(f"/nonexistent/{PROMPT}"),
    "as both files of an OSError": raiser(OSError(errno.EXDEV, PROMPT, PROMPT, None, PROMPT)),
    "as an OSError's own text": raiser(OSError(errno.ENOENT, PROMPT)),
    "as an OSError's number": raiser(OSError(PROMPT, PROMPT)),
    "as an exit's code": raiser(SystemExit(PROMPT)),
    "as an iteration's value": raiser(StopIteration(PROMPT)),
    "as a command": lambda: subprocess.run(["false", PROMPT], check=True),
    "as a command's output": raiser(subprocess.CalledProcessError(1, PROMPT, PROMPT, PROMPT)),
    "as the name of a module": lambda: __import__(PROMPT),
    "as the name of a class": raiser(type(PROMPT, (Exception,), {})()),
    "as the name of a class's module": raiser(type("Odd", (Exception,), {"__module__": PROMPT})()),
    "as the qualified name of a class": raiser(type("Odd", (Exception,), {"__qualname__": PROMPT})()),
    "as the name of a file in the stack": lambda: compiled_with_a_name(PROMPT),
    "as a file in angle brackets": lambda: compiled_with_a_name(f"<{PROMPT}>"),
    "as the name of a function in the stack": lambda: in_a_function_named(PROMPT),
    "in an API error's message": raiser(api_error(message=PROMPT)),
    "as an API error's code": raiser(api_error(message="x", code=PROMPT)),
    "as an API error's type": raiser(api_error(message="x", type=PROMPT)),
    "as an API error's param": raiser(api_error(message="x", param=PROMPT)),
    "encoded as an API error's code": raiser(api_error(code=quote(PROMPT)[:64])),
    "base64 as an API error's code": raiser(api_error(code=BASE64)),
    "base64 as an API error's param": raiser(api_error(param=BASE64)),
    "as an API error's request id": raiser(api_error(headers={"x-request-id": quote(PROMPT)})),
    "as the answer that could not be parsed": raiser(api_error(code="json_validate_failed", failed_generation=PROMPT)),
    "in a guardrail's message": raiser(api_error(error={"message": f"Blocked: {PROMPT}", "code": "content_filter"})),
    "in a guardrail's details": raiser(api_error(innererror={"content_filter_result": {"custom": {"text": PROMPT}}})),
    "in a list that the API answered": raiser(attributed(body=[{"error": {"status": PROMPT, "code": PROMPT}}])),
    "in text that the API answered": raiser(attributed(body=PROMPT)),
    "as a status": raiser(attributed(status_code=PROMPT, status=PROMPT)),
    "as a code that is a mapping": raiser(attributed(code={"code": PROMPT}, type=[PROMPT])),
    "as a code of a text's own class": raiser(attributed(code=type("Text", (str,), {})(PROMPT))),
    "as a refusal": raiser(openai.OpenAIError(PROMPT)),
    "in httpx's message": raiser(httpx.ConnectError(PROMPT, request=REQUEST)),
    "in httpx's time-out": raiser(httpx.ReadTimeout(PROMPT)),
    "in httpx's URL": raiser(httpx.InvalidURL(PROMPT)),
    "in the answer to httpx": lambda: httpx.Response(500, text=PROMPT, request=REQUEST).raise_for_status(),
    "in the answer to requests": raiser(http_error(PROMPT)),
    "in urllib's reason": raiser(urllib.error.URLError(PROMPT)),
    "in urllib's answer": raiser(urllib.error.HTTPError(PROMPT, 500, PROMPT, Message(), None)),
    "in Google's message": raiser(google_exceptions.InvalidArgument(PROMPT, details=[PROMPT], errors=[PROMPT])),
    "as Google's reason": raiser(
        google_exceptions.InvalidArgument("x", error_info={"reason": PROMPT, "domain": PROMPT})
    ),
    "in Google's retries": raiser(google_exceptions.RetryError(PROMPT, ValueError(PROMPT))),
    "in gRPC's details": raiser(RpcError(PROMPT)),
    "as a TLS error's reason": raiser(chained(ssl.SSLError(1, PROMPT), ValueError(PROMPT))),
    "in a message of ModelForge's that quotes its context": raiser(
        chained(modelforge_exceptions.ProviderError(f"Failed: {PROMPT}"), context=ValueError(PROMPT))
    ),
    "in an error that pretends to be ModelForge's": raiser(
        type("OwnError", (Exception,), {"__module__": "modelforge.exceptions"})(PROMPT)
    ),
    "in a message of ModelForge's that quotes its cause": raiser(
        chained(modelforge_exceptions.ProviderError(f"GitHub Copilot API error: {PROMPT}"), ValueError(PROMPT))
    ),
    "in ModelForge's context and details": raiser(
        modelforge_exceptions.ProviderError("Failed", context=PROMPT, suggestion=PROMPT, details={"prompt": PROMPT})
    ),
    "in an error that the application derived from ModelForge's": raiser(
        type("OwnError", (modelforge_exceptions.ModelForgeError,), {})(PROMPT)
    ),
    "in an assertion": raiser(AssertionError(PROMPT, [PROMPT])),
    "in a cancellation": raiser(asyncio.CancelledError(PROMPT)),
    "in an interrupt": raiser(KeyboardInterrupt(PROMPT)),
}  # fmt: skip


def spellings(text: str) -> Iterator[str]:
    """Yield a text and the texts into which it can be decoded."""
    yield text
    yield unquote(unquote(text))
    yield text.replace("\\n", "\n").replace("\\", "")


def holds_a_passage(text: str, original: str) -> bool:
    passages = [original[start : start + 10].casefold() for start in range(len(original) - 9)]
    return any(passage in spelled.casefold() for spelled in spellings(text) for passage in passages)


@pytest.mark.parametrize("way", LEAKS)
def test_nothing_that_an_exception_quotes_is_recorded(way: str) -> None:
    error = caught(LEAKS[way])
    description = describe_error(error)
    assert description.type == error_type(error)
    for text in (*description.event_attributes().values(), fault_text(error)):
        assert not holds_a_passage(text, PROMPT)
        assert BASE64[:20] not in text
        text.encode()


def test_there_are_enough_attempts_and_leaks_would_be_detected() -> None:
    assert len(LEAKS) >= 50
    assert holds_a_passage(quote(PROMPT.upper()), PROMPT)
    assert holds_a_passage(json.dumps(PROMPT), PROMPT)
    assert not holds_a_passage("e purple", PROMPT)


WORDS = "the_purple_heron_nests_here"


@pytest.mark.parametrize(
    "error",
    [
        type("Odd", (Exception,), {"__module__": WORDS})(),
        type("Odd", (Exception,), {"__module__": WORDS.replace("_", ".")})(),
        type(WORDS * 10, (Exception,), {})(),
        api_error(headers={"x-request-id": WORDS.replace("_", "-")}),
        google_exceptions.InvalidArgument("x", error_info=SimpleNamespace(reason=WORDS)),
        tls_error(WORDS),
    ],
    ids=["module", "dotted module", "long class", "request id", "Google's reason", "TLS reason"],
)
def test_words_that_look_like_an_identifier_are_not_recorded(error: BaseException) -> None:
    for text in (*describe_error(error).event_attributes().values(), fault_text(error)):
        assert "heron" not in text


def test_the_long_name_of_a_function_or_a_file_is_not_recorded() -> None:
    for fails in (lambda: in_a_function_named("x" * 201), lambda: compiled_with_a_name(f"/{'x' * 1025}.py")):
        assert "x" * 100 not in describe_error(caught(fails)).stacktrace


@pytest.mark.parametrize("name", ["<generated>", "/nonexistent/generated.py"])
def test_the_source_of_code_that_is_not_in_a_file_is_not_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tool that runs a model's answer can make its source available to tracebacks.
    source = f"[].{WORDS}"
    monkeypatch.setitem(linecache.cache, name, (len(source), None, [source], name))
    error = caught(lambda: eval(compile(source, name, "eval")))
    for text in (describe_error(error).stacktrace, fault_text(error)):
        assert name in text
        assert "heron" not in text


SECRET = "my/own+secret=1"
CREDENTIALS = {
    "an OpenAI key": OPENAI_KEY,
    "a Google key": GOOGLE_KEY,
    "a secret of no known shape": SECRET,
    "a percent-encoded secret": quote(SECRET, safe=""),
    "a secret in upper case": SECRET.upper(),
}
HOLDERS: dict[str, Callable[[str], BaseException]] = {
    "the text": lambda key: ValueError(f"Incorrect API key provided: {key}."),
    "a mapping's key": lambda key: KeyError(key),
    "a header tuple": lambda key: httpx.ConnectError(str([("authorization", f"Bearer {key}")])),
    "a header of bytes": lambda key: requests.ConnectionError([(b"x-api-key", key.encode())]),
    "the cause": lambda key: chained(ValueError("x"), ValueError(f"Authorization: Bearer {key}")),
    "a group": lambda key: ExceptionGroup(f"key={key}", [ValueError(key)]),
    "a body": lambda key: api_error(message=f"bad key {key}", code=key, type=key, param=key),
    "ModelForge's message": lambda key: modelforge_exceptions.ProviderNotAvailableError(f"acme with {key}"),
    "a request id": lambda key: api_error(headers={"x-request-id": key}),
    "a URL": lambda key: httpx.InvalidURL(f"https://host/v1?key={key}&alt=sse"),
    "the end of what is kept": lambda key: ValueError("x" * 4080 + f" {key}" + " x" * 9000),
    "the end of what is scanned": lambda key: ValueError(("x " * 4200)[: 4096 + 4096 - 6] + f" {key}" + " x" * 9000),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_no_credential_is_recorded(credential: str, holder: str, full: bool) -> None:
    key = CREDENTIALS[credential]
    description = describe_error(caught(raiser(HOLDERS[holder](key))), secrets=[SECRET, OPENAI_KEY], full=full)
    for text in (description.message, description.stacktrace):
        for part in (key, key[:12], key[-12:]):
            assert part not in text
    assert not full or holder == "a request id" or "[REDACTED]" in description.stacktrace or "the end" in holder


def facts(error: BaseException) -> str:
    return describe_error(error).message


FACTS: list[tuple[BaseException, str]] = [
    (ValueError("text"), "ValueError"),
    (
        api_error(openai.RateLimitError, 429, code="rate_limit_exceeded", type="requests"),
        "openai.RateLimitError: 429 rate_limit_exceeded",
    ),
    (api_error(type="invalid_request_error"), "openai.BadRequestError: 400 invalid_request_error"),
    (
        api_error(code="unsupported_value", param="messages[0].content"),
        "openai.BadRequestError: 400 unsupported_value param=messages[0].content",
    ),
    (api_error(code=400, type="x y"), "openai.BadRequestError: 400"),
    (api_error(code="1261"), "openai.BadRequestError: 400 1261"),
    (openai.APIError("x", REQUEST, body={"code": "server_error"}), "openai.APIError: server_error"),
    (openai.APITimeoutError(REQUEST), "openai.APITimeoutError"),
    (
        attributed(body=[{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}]),
        "openai.APIError: 400 INVALID_ARGUMENT",
    ),
    (ValueError({"message": "text", "code": 502}), "ValueError: 502"),
    (ValueError({"error": {"code": "overloaded", "type": "x y"}}), "ValueError: overloaded"),
    (TypeError({"code": "overloaded"}), "TypeError"),
    (httpx.ConnectTimeout("x"), "httpx.ConnectTimeout: connect timeout"),
    (httpx.ReadTimeout("x"), "httpx.ReadTimeout: read timeout"),
    (httpx.WriteTimeout("x"), "httpx.WriteTimeout: write timeout"),
    (httpx.PoolTimeout("x"), "httpx.PoolTimeout: pool timeout"),
    (requests.ConnectTimeout("x"), "requests.exceptions.ConnectTimeout: connect timeout"),
    (requests.ReadTimeout("x"), "requests.exceptions.ReadTimeout: read timeout"),
    (TimeoutError(), "TimeoutError"),
    (TimeoutError(errno.ETIMEDOUT, "x"), f"TimeoutError: [Errno {errno.ETIMEDOUT}] {os.strerror(errno.ETIMEDOUT)}"),
    (
        ConnectionRefusedError(errno.ECONNREFUSED, "x"),
        f"ConnectionRefusedError: [Errno {errno.ECONNREFUSED}] Connection refused",
    ),
    (FileNotFoundError(2, "x", "file"), "FileNotFoundError: [Errno 2] No such file or directory"),
    (OSError("x"), "OSError"),
    (OSError(10**30, "x"), "OSError"),
    (socket.gaierror(-2, "x"), "socket.gaierror: [Errno -2] name resolution failed"),
    (socket.gaierror(10**30, "x"), "socket.gaierror"),
    (tls_error("CERTIFICATE_VERIFY_FAILED"), "ssl.SSLError: CERTIFICATE_VERIFY_FAILED"),
    (http_error("x"), "requests.exceptions.HTTPError: 500"),
    (urllib.error.HTTPError("x", 503, "x", Message(), None), "urllib.error.HTTPError: 503"),
    (
        google_exceptions.ResourceExhausted("x"),
        "google.api_core.exceptions.ResourceExhausted: 429 RESOURCE_EXHAUSTED",
    ),
    (
        google_exceptions.InvalidArgument("x", error_info=SimpleNamespace(reason="API_KEY_INVALID", domain="x")),
        "google.api_core.exceptions.InvalidArgument: 400 INVALID_ARGUMENT API_KEY_INVALID",
    ),
    (RpcError("x"), f"{__name__}.RpcError: INVALID_ARGUMENT"),
    (
        modelforge_exceptions.ProviderNotAvailableError("acme"),
        "modelforge.exceptions.ProviderNotAvailableError: Provider 'acme' is not available",
    ),
    (
        chained(modelforge_exceptions.ProviderError("Copilot failed: text"), ValueError("text")),
        "modelforge.exceptions.ProviderError: Copilot failed",
    ),
    (
        chained(openai.APIConnectionError(request=REQUEST), httpx.ReadTimeout("x")),
        "openai.APIConnectionError (httpx.ReadTimeout: read timeout)",
    ),
    (chained(openai.APIConnectionError(request=REQUEST), ValueError("x")), "openai.APIConnectionError (ValueError)"),
    (chained(KeyError("x"), context=ValueError("x")), "KeyError"),
]


@pytest.mark.parametrize(("error", "message"), FACTS, ids=[message for _, message in FACTS])
def test_the_message_is_the_type_and_details_known_to_be_safe(error: BaseException, message: str) -> None:
    assert describe_error(error).message == message


def test_the_status_of_an_httpx_response_is_recorded() -> None:
    error = caught(lambda: httpx.Response(503, request=REQUEST).raise_for_status())
    assert facts(error) == "httpx.HTTPStatusError: 503"


@pytest.mark.parametrize("secret", ["rate_limit_exceeded", "xx-rate_limit_exceeded-xx", "LIMIT"])
def test_a_code_that_is_or_contains_a_secret_is_not_recorded(secret: str) -> None:
    error = api_error(openai.RateLimitError, 429, code="rate_limit_exceeded")
    assert describe_error(error, secrets=[secret]).message == "openai.RateLimitError: 429"


def test_the_details_are_in_the_stack_trace_and_not_in_the_status() -> None:
    headers = {"x-request-id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    error = api_error(openai.RateLimitError, 429, headers, code="rate_limit_exceeded", type="requests")
    description = describe_error(error)
    assert description.message == "openai.RateLimitError: 429 rate_limit_exceeded"
    assert description.stacktrace == (
        "openai.RateLimitError: 429 rate_limit_exceeded (type=requests, request_id=req_011CSHoEeqs5C35K2UUqR7Fy)"
    )


def test_the_event_has_the_conventions_attributes() -> None:
    assert ErrorDescription("a", "b", "c").event_attributes() == {
        exception_attributes.EXCEPTION_TYPE: "a",
        exception_attributes.EXCEPTION_MESSAGE: "b",
        exception_attributes.EXCEPTION_STACKTRACE: "c",
    }


# --- The stack and the chain ---


def inner() -> object:
    return {}[PROMPT]


def outer() -> object:
    try:
        return inner()
    except KeyError as error:
        raise ValueError(PROMPT) from error


def test_the_stack_has_the_file_the_line_the_function_and_the_source_of_each_frame() -> None:
    assert re.sub(r"line \d+", "line N", describe_error(caught(outer)).stacktrace) == (
        "Traceback (most recent call last):\n"
        f'  File "{__file__}", line N, in outer\n'
        "    return inner()\n"
        f'  File "{__file__}", line N, in inner\n'
        "    return {}[PROMPT]\n"
        "KeyError\n"
        "\n"
        "The above exception was the direct cause of the following exception:\n"
        "\n"
        "Traceback (most recent call last):\n"
        f'  File "{__file__}", line N, in caught\n'
        "    action()\n"
        f'  File "{__file__}", line N, in outer\n'
        "    raise ValueError(PROMPT) from error\n"
        "ValueError"
    )


def test_a_context_is_recorded_unless_it_is_suppressed() -> None:
    error = chained(ValueError("x"), context=KeyError("x"))
    assert describe_error(error).stacktrace == (
        "KeyError\n\nDuring handling of the above exception, another exception occurred:\n\nValueError"
    )
    error.__suppress_context__ = True
    assert describe_error(error).stacktrace == "ValueError"


def test_the_members_of_a_group_are_recorded() -> None:
    error = ExceptionGroup("x", [chained(ValueError("x"), KeyError("x")), OSError(2, "x")])
    assert describe_error(error).stacktrace == (
        "ExceptionGroup\n"
        "  +-- 1 of 2:\n"
        "  | KeyError\n"
        "  | \n"
        "  | The above exception was the direct cause of the following exception:\n"
        "  | \n"
        "  | ValueError\n"
        "  +-- 2 of 2:\n"
        "  | FileNotFoundError: [Errno 2] No such file or directory"
    )


def test_the_exception_that_the_application_was_handling_is_not_recorded() -> None:
    beyond = TypeError("x")
    handled = chained(LookupError("x"), context=beyond)
    error = chained(ValueError("x"), chained(KeyError("x"), context=handled))
    assert describe_error(error, handled=handled).stacktrace == (
        "KeyError\n\nThe above exception was the direct cause of the following exception:\n\nValueError"
    )
    group = ExceptionGroup("x", [handled, ValueError("x")])
    assert "LookupError" not in describe_error(group, handled=handled).stacktrace
    assert describe_error(handled, handled=handled).stacktrace == "LookupError"


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("x"), KeyError("x")
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first).stacktrace.endswith("\n\nValueError")
    first.__cause__ = first
    assert describe_error(first).stacktrace == "ValueError"
    group = ExceptionGroup("x", [first])
    first.__cause__ = group
    assert describe_error(group).stacktrace == "ExceptionGroup\n  +-- 1 of 1:\n  | ValueError"


def test_a_long_chain_and_a_large_group_are_truncated() -> None:
    error: BaseException = ValueError("x")
    for _ in range(1000):
        error = chained(ValueError("x"), error)
    assert describe_error(error).stacktrace.count("ValueError") == 16
    group = ExceptionGroup("x", [ValueError("x") for _ in range(1000)])
    description = describe_error(group)
    assert description.stacktrace.count("ValueError") == 15
    assert description.stacktrace.endswith("\n  (985 more exceptions)")
    for _ in range(100):
        group = ExceptionGroup("x", [group])
    assert describe_error(group).stacktrace.count("ExceptionGroup") == 16


def deep(depth: int) -> object:
    return deep(depth - 1) if depth else {}[PROMPT]


def test_a_deep_stack_keeps_its_ends() -> None:
    stacktrace = describe_error(caught(lambda: deep(200))).stacktrace
    assert stacktrace.count('  File "') == 100
    assert "\n  (103 more frames)\n" in stacktrace
    assert "in caught" in stacktrace


def test_a_credential_in_the_source_is_not_recorded() -> None:
    def fail() -> object:
        return {}["sk-proj-0123456789abcdef"]

    assert '    return {}["[REDACTED]"]' in describe_error(caught(fail)).stacktrace


def test_a_random_word_in_the_source_is_not_recorded() -> None:
    def fail() -> object:
        return {}["0f3a9b2c4d5e6f708192a3b4c5d6e7f8"]

    for text in (describe_error(caught(fail)).stacktrace, fault_text(caught(fail))):
        assert '    return {}["[REDACTED]"]' in text
        assert f'File "{__file__}"' in text


# --- The message, if it is requested ---


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the key is hunter2"),
        ValueError("api_key=\nhunter2"),
        KeyError("9hunter2-1f2e3d4c5b6a79"),
        modelforge_exceptions.ProviderNotAvailableError("acme with token hunter2"),
    ],
)
def test_a_message_contains_no_possible_credential(error: BaseException) -> None:
    description = describe_error(error, full=True)
    assert "[REDACTED]" in description.message
    assert "hunter2" not in description.message + description.stacktrace


def test_a_request_id_redacted_from_the_message_stays_in_the_details() -> None:
    error = api_error(
        headers={"x-request-id": "req_011CSHoEeqs5C35K2UUqR7Fy"}, message="see req_011CSHoEeqs5C35K2UUqR7Fy"
    )
    description = describe_error(error, full=True)
    assert description.message.endswith("'see [REDACTED]'}")
    assert "request_id=req_011CSHoEeqs5C35K2UUqR7Fy" in description.stacktrace


def test_the_full_message_is_added_to_the_description_and_the_stack_trace() -> None:
    error = chained(api_error(code="bad"), KeyError("the cause"))
    description = describe_error(error, full=True)
    assert description.message == "openai.BadRequestError: 400 bad: Error code: 400 - {'code': 'bad'}"
    assert description.stacktrace == (
        "KeyError: 'the cause'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "openai.BadRequestError: 400 bad: Error code: 400 - {'code': 'bad'}"
    )


@pytest.mark.parametrize("character", ["x", "ß", "€", "🪿"])
def test_the_messages_of_an_error_and_its_causes_are_limited_to_4_kib(character: str) -> None:
    error = chained(ValueError(character * 10_000), KeyError("the cause"))
    description = describe_error(error, full=True)
    text = description.message.removeprefix("ValueError: ")
    assert text == character * (4096 // len(character.encode()))
    assert "the cause" not in description.stacktrace


def test_a_message_that_cannot_be_generated_is_recorded_as_such() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert describe_error(Mute(), full=True).message.endswith("Mute: <exception str() failed>")


def test_the_message_is_not_generated_unless_it_is_requested() -> None:
    class Loud(Exception):
        def __str__(self) -> str:
            raise AssertionError

        __repr__ = __str__

    assert describe_error(Loud("x")).message.endswith("Loud")


# --- Strange exceptions ---


class Odd(Exception):
    """Raises at every attribute that is accessed through an instance."""

    status_code = 400

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class OddMeta(type):
    @property
    def __module__(cls) -> Any:  # type: ignore[override]
        raise RuntimeError

    @property
    def __mro__(cls) -> Any:
        raise RuntimeError


class OddClass(Exception, metaclass=OddMeta):
    pass


class Numbered(Exception):
    __module__ = 5  # type: ignore[assignment]


class PretendsToBe(Exception):
    status_code = 400

    @property
    def __class__(self) -> Any:
        raise RuntimeError

    @property
    def code(self) -> Any:
        return self


class EmptyOSError(OSError):
    errno = property(lambda _: (_ for _ in ()).throw(RuntimeError))


class Cyclic(Exception):
    @property
    def __cause__(self) -> Any:
        return type(self)()


class GroupOfAnything(ExceptionGroup[Any]):
    exceptions = (1, None, ValueError("x"), "text")  # type: ignore[assignment]


@pytest.mark.parametrize(
    "make",
    [
        Odd, OddClass, Numbered, PretendsToBe, EmptyOSError, Cyclic,
        lambda: GroupOfAnything("x", [ValueError("x")]),
        lambda: ValueError.__new__(ValueError),
        lambda: modelforge_exceptions.ModelForgeError.__new__(modelforge_exceptions.ModelForgeError),
        lambda: attributed(code=float("nan"), status_code=True, body=object(), request_id=b"x"),
        lambda: attributed(code="\ud800", type="\ud800", status_code=10**400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("full", [False, True])
def test_a_strange_exception_is_described(make: Callable[[], BaseException], full: bool) -> None:
    description = describe_error(caught(raiser(make())), full=full)
    for text in description.event_attributes().values():
        assert text
        text.encode()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("name", ["__str__", "status_code", "__cause__"])
def test_an_interrupt_propagates(name: str, interrupt: type[BaseException]) -> None:
    def member(self: object) -> Any:
        raise interrupt

    odd = type("Odd", (Exception,), {name: member if name == "__str__" else property(member)})
    with pytest.raises(interrupt):
        describe_error(odd(), full=True)


@pytest.mark.parametrize("name", ["__str__", "status_code"])
def test_an_exception_of_a_signal_handler_propagates(name: str) -> None:
    class TimeLimit(Exception):
        pass

    def handler(*_: object) -> None:
        raise TimeLimit

    def member(self: object) -> Any:
        signal.raise_signal(signal.SIGUSR1)

    odd = type("Odd", (Exception,), {name: member if name == "__str__" else property(member)})
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(TimeLimit):
            describe_error(odd(), full=True)
    finally:
        signal.signal(signal.SIGUSR1, before)


@given(st.text(), st.text(), st.one_of(st.text(), st.integers(), st.none(), st.binary()), st.booleans())
def test_any_values_can_be_described(message: str, code: str, status: object, full: bool) -> None:
    error = attributed(code=code, status_code=status, body={"message": message, "error": status})
    error.args = (message,)
    for text in describe_error(error, secrets=[code], full=full).event_attributes().values():
        text.encode()


def test_the_application_s_exception_is_not_modified() -> None:
    error = caught(outer)
    before = (error.args, error.__cause__, error.__context__, error.__traceback__, dict(vars(error)))
    describe_error(error, full=True)
    assert (error.args, error.__cause__, error.__context__, error.__traceback__, dict(vars(error))) == before


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(), "ValueError"),
        (openai.APITimeoutError(REQUEST), "openai.APITimeoutError"),
        (RpcError("x"), f"{__name__}.RpcError"),
        (type("two words", (KeyError,), {})(), "KeyError"),
        (type("Odd", (KeyError,), {"__module__": "two words"})(), "Odd"),
        (type("Odd", (KeyError,), {"__module__": "never.imported"})(), "Odd"),
        (type(OPENAI_KEY.replace("-", "_"), (KeyError,), {})(), "KeyError"),
        (type("x" * 201, (KeyError,), {})(), "KeyError"),
    ],
)
def test_the_type_is_the_qualified_name_of_the_class(error: BaseException, kind: str) -> None:
    assert error_type(error) == kind


class CountedText(str):
    """A text that fails the test if it is read completely."""

    def _fail(self, *_: object) -> Any:
        raise AssertionError("the text was read")

    __str__ = __format__ = __contains__ = __iter__ = __getitem__ = encode = replace = _fail  # type: ignore[assignment]


def test_the_length_of_the_message_makes_no_difference() -> None:
    for error in (
        ValueError(CountedText("x")),
        api_error(message=CountedText("x")),
        httpx.ReadTimeout(CountedText("x")),
    ):
        error.args = (CountedText("x"),)
        describe_error(error)
