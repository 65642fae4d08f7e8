# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Attempts to leak a prompt, an answer or a credential from the process while content is not captured."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any
from unittest import mock
from urllib.parse import quote

import httpx
import pytest
from modelforge.exceptions import ProviderError
from pydantic import BaseModel

from support.calls import MODELS
from support.instant import InstantRegistry
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, get_llm, without_retries, write_config
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

PROMPT = "purple heron nests behind the third windmill"
ANSWER = "velvet turbine dreams between the bells"
KEYS = {
    # Without the alphabets in these keys, which also occur in identifiers.
    "openai": OPENAI_KEY[:18],
    "google": GOOGLE_KEY[:20],
    "github_copilot": COPILOT_TOKEN[:18],
    "ollama": OPENAI_KEY[:18],
}


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def words(text: str) -> list[str]:
    """Return the parts by which a text is recognized, in each spelling that can be reversed."""
    pieces = [text[at : at + 12] for at in range(0, len(text) - 12, 6)]
    spellings = (str.lower, str.upper, quote, lambda piece: quote(piece, safe=""), escaped, lambda piece: piece[::-1])
    return [spelling(piece) for piece in pieces for spelling in spellings]


def exported(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> str:
    """Return everything that leaves the process as one string."""
    spans = [span.to_json() for span in telemetry.spans()]
    links = [str(link.attributes) for span in telemetry.spans() for link in span.links]
    metrics = [f"{name} {dict(point.attributes)}" for name, points in telemetry.metrics().items() for point in points]
    logs = [record.to_json() for record in telemetry.logs()]
    lines = [
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name.startswith("opentelemetry_instrumentation_modelforge")
    ]
    return "\n".join([*spans, *links, *metrics, *logs, *lines])


def leaks(text: str, *secrets: str) -> list[str]:
    """Return the parts of the secrets that a text contains, in any of their spellings."""
    lower = text.lower()
    return sorted({word for secret in secrets for word in words(secret) if word.lower() in lower})


@pytest.fixture(autouse=True)
def verbose(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry_instrumentation_modelforge")
    # The event is emitted, but without content.
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")


def drained(llm: Any) -> Callable[[], Any]:
    async def drain() -> None:
        async for _ in llm.astream(PROMPT):
            pass

    return lambda: asyncio.run(drain())


# --- A provider that quotes ---

BODIES: dict[str, Callable[[str], Any]] = {
    "the prompt": lambda key: {"error": {"message": f"Rejected: {PROMPT}", "type": "invalid_request_error"}},
    "the prompt percent-encoded": lambda key: {"error": {"message": f"Rejected: {quote(PROMPT)}"}},
    "the prompt in capitals": lambda key: {"error": {"message": PROMPT.upper()}},
    "the prompt escaped": lambda key: {"error": {"message": escaped(PROMPT)}},
    "the prompt reversed": lambda key: {"error": {"message": PROMPT[::-1]}},
    "the prompt as the code": lambda key: {"error": {"message": "no", "code": PROMPT, "type": PROMPT, "param": PROMPT}},
    "the prompt as a code of its words": lambda key: {"error": {"code": PROMPT.replace(" ", "_") * 2, "message": "no"}},
    "the prompt in a nested object": lambda key: {"error": {"message": json.dumps({"input": {"value": PROMPT}})}},
    "the prompt as a page": lambda key: f"<html><body>{PROMPT}</body></html>",
    "the answer": lambda key: {"error": {"message": "no", "failed_generation": ANSWER}},
    "the key": lambda key: {"error": {"message": f"Incorrect API key provided: {key}0123"}},
    "the key percent-encoded": lambda key: {"error": {"message": f"?key={quote(key, safe='')}"}},
    "the key as the code": lambda key: {"error": {"message": "no", "code": key, "type": key, "param": key}},
}


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.sampled(by=lambda provider, body, status: [(provider, body), (provider, status)])
def test_an_error_of_the_provider_is_recorded_without_its_quotations(
    provider: str,
    body: str,
    status: int,
    model: Callable[..., Any],
    instrumented: Telemetry,
    provider_server: ProviderServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider_server.reply = Reply(status=status, error_body=BODIES[body](KEYS[provider]))
    llm = model(provider)
    for call in (lambda: llm.invoke(PROMPT), lambda: list(llm.stream(PROMPT)), drained(llm)):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each client has its own.
            call()
    everything = exported(instrumented, caplog)
    assert "langchain.llm.invoke" in everything
    assert leaks(everything, PROMPT, ANSWER, KEYS[provider]) == []


@pytest.mark.parametrize("provider", MODELS)
def test_an_answer_is_not_recorded(
    provider: str,
    model: Callable[..., Any],
    instrumented: Telemetry,
    provider_server: ProviderServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider_server.reply = Reply(text=ANSWER)
    llm = model(provider)
    for call in (lambda: llm.invoke(PROMPT), lambda: list(llm.stream(PROMPT)), drained(llm)):
        call()
    stream = llm.stream(PROMPT)
    next(stream)
    stream.close()
    everything = exported(instrumented, caplog)
    assert leaks(everything, PROMPT, ANSWER, KEYS[provider]) == []


# --- An exception that quotes ---


class Person(BaseModel):
    age: int


def validation_error() -> Exception:
    try:
        Person.model_validate({"age": PROMPT})
    except ValueError as error:
        return error
    raise AssertionError


def caused(link: str) -> Exception:
    error = RuntimeError("outer")
    setattr(error, link, ValueError(PROMPT))
    return error


def noted() -> Exception:
    error = RuntimeError("outer")
    error.add_note(PROMPT)
    return error


class Property(Exception):
    status_code = PROMPT
    code = PROMPT
    request_id = PROMPT
    type = PROMPT

    def __str__(self) -> str:
        return PROMPT

    def __repr__(self) -> str:
        return PROMPT


def of_a_named_class() -> Exception:
    return type(PROMPT, (RuntimeError,), {"__module__": PROMPT})(PROMPT)


def from_a_named_file() -> Exception:
    try:
        exec(compile(f"def f():\n    raise ValueError({PROMPT!r})\nf()", f"<{PROMPT}>", "exec"))
    except ValueError as error:
        return error
    raise AssertionError


def from_a_named_function() -> Exception:
    def fails() -> None:
        raise ValueError

    fails.__code__ = fails.__code__.replace(co_name=PROMPT, co_qualname=PROMPT)
    try:
        fails()
    except ValueError as error:
        return error
    raise AssertionError


def unicode_error() -> Exception:
    try:
        (PROMPT + "\udcff").encode()
    except UnicodeEncodeError as error:
        return error
    raise AssertionError


def json_error() -> Exception:
    try:
        json.loads(PROMPT)
    except ValueError as error:
        return error
    raise AssertionError


ERRORS: dict[str, Callable[[], Exception]] = {
    "a plain message": lambda: ValueError(PROMPT),
    "two arguments": lambda: ValueError("no", PROMPT),
    "a key": lambda: KeyError(PROMPT),
    "an answer": lambda: ValueError(ANSWER),
    "a validation error": validation_error,
    "a cause": lambda: caused("__cause__"),
    "a context": lambda: caused("__context__"),
    "a note": noted,
    "a group": lambda: ExceptionGroup(PROMPT, [ValueError(PROMPT), KeyError(ANSWER)]),
    "properties": Property,
    "the name of its class": of_a_named_class,
    "the name of its file": from_a_named_file,
    "the name of its function": from_a_named_function,
    "an operating system's error": lambda: OSError(2, PROMPT, PROMPT),
    "an error number of its own": lambda: OSError(PROMPT),
    "an encoding error": unicode_error,
    "a JSON error": json_error,
    "an import error": lambda: ImportError(PROMPT, name=PROMPT, path=PROMPT),
    "a syntax error": lambda: SyntaxError(PROMPT, (PROMPT, 1, 1, PROMPT)),
    "an attribute error": lambda: AttributeError(PROMPT, name=PROMPT, obj=PROMPT),
    "a provider's body": lambda: ValueError({"error": {"message": PROMPT, "code": PROMPT}}),
    "a time-out": lambda: TimeoutError(PROMPT),
    "a credential": lambda: RuntimeError(f"Authorization: Bearer {OPENAI_KEY}"),
}

WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda llm: llm.invoke(PROMPT),
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke(PROMPT)),
    "stream": lambda llm: list(llm.stream(PROMPT)),
    "astream": lambda llm: drained(llm)(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.sampled(by=lambda name, way: [name, way])
def test_an_exception_is_recorded_without_its_message_and_reaches_the_application_unchanged(
    name: str, way: str, instrumented: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    error = ERRORS[name]()
    arguments = error.args
    llm = get_llm(InstantRegistry(fails=error, text=ANSWER), "openai", "fast")
    with pytest.raises(type(error)) as raised:
        WAYS[way](llm)
    assert raised.value is error
    assert error.args == arguments
    everything = exported(instrumented, caplog)
    assert "langchain.llm.invoke" in everything
    assert leaks(everything, PROMPT, ANSWER, OPENAI_KEY) == []


# --- Functions of the user that quote ---


def raising(*arguments: Any, **keywords: Any) -> Any:
    raise KeyError(PROMPT, ANSWER, OPENAI_KEY)


class Hook:
    on_completion = staticmethod(raising)


@pytest.mark.parametrize(
    "options",
    [
        {"request_hook": raising},
        {"response_hook": raising},
        {"completion_hook": Hook()},
        {"cost": raising},
        {"redact": raising},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("way", WAYS)
def test_a_users_function_that_raises_is_logged_without_its_quotations(
    way: str,
    options: dict[str, Any],
    instrument: Callable[..., Telemetry],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "redact" in options:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    telemetry = instrument(**options)
    WAYS[way](get_llm(InstantRegistry(text=ANSWER), "openai", "fast"))
    everything = exported(telemetry, caplog)
    assert "Telemetry fault" in everything or "redact" in options
    assert leaks(everything, PROMPT, ANSWER, OPENAI_KEY) == []


# --- Metadata, tags and run names ---


def test_names_metadata_and_tags_that_quote_content_are_not_recorded(
    instrumented: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    llm = get_llm(InstantRegistry(text=ANSWER), "openai", "fast")
    config: Any = {"run_name": PROMPT, "tags": [PROMPT], "metadata": {PROMPT: PROMPT, "user": ANSWER}}
    llm.invoke(PROMPT, config)
    list(llm.stream(PROMPT, config))
    assert leaks(exported(instrumented, caplog), PROMPT, ANSWER) == []


# --- Keys in unexpected places of an address ---

SECRET = "sk-proj-Zm9vYmFyYmF6cXV4MDEyMzQ1Njc4OTAx"
ADDRESSES = {
    "the whole": SECRET,
    "the host": f"https://{SECRET}/v1",
    "the host without scheme": f"{SECRET}:443",
    "a label of the host": f"https://{SECRET}.example.com/v1",
    "the user": f"https://{SECRET}@example.com/v1",
    "the password": f"https://user:{SECRET}@example.com/v1",
    "a password with a slash": f"https://user:{SECRET}/x@example.com/v1",
    "a password with an at sign": f"https://user:{SECRET}@x@example.com/v1",
    "the port": f"https://example.com:{SECRET}/v1",
    "the path": f"https://example.com/{SECRET}/v1",
    "the query": f"https://example.com/v1?api-key={SECRET}",
    "the fragment": f"https://example.com/v1#{SECRET}",
    "the scheme": f"{SECRET}://example.com",
    "behind a backslash": f"https://example.com\\{SECRET}",
    "percent-encoded": f"https://{quote(SECRET[:4], safe='')}%2D{SECRET[4:]}/v1",
    "in capitals": f"https://{SECRET.upper()}/v1",
    "no host": f"https:///{SECRET}",
    "brackets": f"https://[{SECRET}]/v1",
    "a space before": f" https://{SECRET}/v1",
    "a line break": f"https://example.com\n{SECRET}",
}


@pytest.mark.parametrize("place", ADDRESSES)
def test_a_key_in_a_base_url_reaches_no_span_and_no_metric(
    place: str,
    instrumented: Telemetry,
    registry: Any,
    model_config: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from modelforge import ModelForgeRegistry

    model_config["providers"]["openai"]["base_url"] = ADDRESSES[place]
    write_config(model_config)
    try:
        llm: Any = without_retries(get_llm(ModelForgeRegistry(), "openai", "gpt-4o-mini"))
    except (ValueError, TypeError, ProviderError, httpx.InvalidURL):
        # ModelForge or the client rejects some of them, and the span records why.
        pass
    else:
        error = ConnectionError(ADDRESSES[place])
        # No server has this address.
        monkeypatch.setattr(type(llm), "_generate", mock.Mock(side_effect=error))
        with pytest.raises(ConnectionError):
            llm.invoke("Hi")
    everything = exported(instrumented, caplog)
    assert "modelforge.get_llm" in everything
    assert leaks(everything, SECRET[8:]) == []
