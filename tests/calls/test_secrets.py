# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""With capture off, neither content nor a credential is in a span, an event, a metric, a log record or a log line."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from modelforge import ModelForgeRegistry
from pydantic import BaseModel

from support.models import GOOGLE_KEY, OPENAI_KEY, get_llm, without_retries, write_config
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

PROMPT = "Tell no one that the purple heron nests behind the third windmill"
ANSWER = "Between the bells of noon a velvet turbine dreams"
OWN_SECRET = "own secret of no shape"
HEX_KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
"""A key like Azure's, whose format cannot be distinguished from a hash."""
SECRET = f"{PROMPT}, {ANSWER}, {OPENAI_KEY}, {HEX_KEY}"


def parts(*texts: str) -> Iterator[str]:
    """Yield each text's middle and the parts that splitting it would leave."""
    for text in texts:
        yield text[8:20]
        yield text[:12]


def told(telemetry: Telemetry, lines: pytest.LogCaptureFixture) -> str:
    """Return everything that left the process as one string."""
    spans = [span.to_json() for span in telemetry.spans()]
    records = [record.to_json() for record in telemetry.logs()]
    metrics = [
        json.dumps({name: [dict(point.attributes) for point in points]}) for name, points in telemetry.metrics().items()
    ]
    own = [record for record in lines.records if record.name.startswith("opentelemetry_instrumentation_modelforge")]
    logged = [f"{logging.Formatter().format(record)} {record.args!r} {record.exc_info!r}" for record in own]
    return "\n".join([*spans, *records, *metrics, *logged])


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def assert_nothing_is_told(text: str) -> None:
    assert "langchain" in text or "modelforge" in text
    assert [part for part in parts(PROMPT, ANSWER, OPENAI_KEY, HEX_KEY, GOOGLE_KEY) if part in text] == []


# --- Hooks that raise ---


class Quoting(Exception):
    """An exception that quotes content in every place that an exception has."""

    def __init__(self, text: str) -> None:
        super().__init__(text, {"prompt": text})
        self.code = self.type = self.param = self.status = text
        self.request_id = text
        self.errno, self.strerror, self.filename = text, text, text
        self.body = {"error": {"message": text, "code": text, "type": text, "param": text}}
        self.add_note(text)


def quoting(text: str) -> Exception:
    error = Quoting(text)
    error.__cause__ = KeyError(text)
    error.__context__ = ExceptionGroup(text, [ValueError(text), OSError(5, text, text)])
    return error


def raising(*arguments: object, **keywords: object) -> Any:
    raise quoting(f"{SECRET} {arguments} {keywords}")


class RaisingHook:
    on_completion = staticmethod(raising)


HOOKS: dict[str, dict[str, Any]] = {
    "request_hook": {"request_hook": raising},
    "response_hook": {"response_hook": raising},
    "cost": {"cost": raising},
    "redact": {"redact": raising, "completion_hook": type("Hook", (), {"on_completion": lambda self, **_: None})()},
    "completion_hook": {"completion_hook": RaisingHook()},
}


@pytest.mark.parametrize("way", ["invoke", "stream"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_discloses_nothing(
    hook: str,
    way: str,
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    lines: pytest.LogCaptureFixture,
) -> None:
    provider_server.reply = Reply(text=ANSWER)
    telemetry = instrument(**HOOKS[hook])
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    # A stream without usage has no cost.
    said = llm.invoke(PROMPT).content if way == "invoke" else "".join(chunk.content for chunk in llm.stream(PROMPT))
    assert said == ANSWER
    text = told(telemetry, lines)
    assert ("Telemetry fault" in text) is (hook != "cost" or way == "invoke")
    assert_nothing_is_told(text)


# --- What providers answer ---

ANSWERS: dict[str, Reply] = {
    "a status error": Reply(status=400, error_body={"error": {"message": SECRET, "type": SECRET, "code": SECRET}}),
    "a status error with a word": Reply(status=400, error_body={"error": {"message": SECRET, "code": HEX_KEY}}),
    "a status error in plain text": Reply(status=500, error_body=SECRET),
    "an answer that does not parse": Reply(malformed=True, text=ANSWER),
    "a cut answer": Reply(cut_after=1, text=ANSWER),
    "an answer of another form": Reply(body={"error": SECRET, "choices": SECRET, "message": SECRET}),
    "a list": Reply(body={"choices": [{"message": {"role": SECRET, "content": {"a": SECRET}}}], "model": "m"}),
}
MODELS = {
    "openai": "gpt-4o-mini",
    "openrouter": "qwen",
    "ollama": "llama3",
    "google": "gemini",
    "github_copilot": "gpt-4o",
}


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke"])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("provider", MODELS)
def test_a_malformed_answer_discloses_nothing(
    provider: str,
    answer: str,
    way: str,
    instrumented: Telemetry,
    registry: Any,
    provider_server: ProviderServer,
    lines: pytest.LogCaptureFixture,
) -> None:
    provider_server.reply = ANSWERS[answer]
    llm = without_retries(get_llm(registry, provider, MODELS[provider]))
    raised: BaseException | None = None
    try:
        if way == "invoke":
            llm.invoke(PROMPT)
        elif way == "stream":
            list(llm.stream(PROMPT))
        else:
            asyncio.run(llm.ainvoke(PROMPT))
    except Exception as error:
        raised = error
    assert_nothing_is_told(told(instrumented, lines))
    if raised is not None:
        assert not hasattr(raised, "__notes__")


SPELLINGS = [
    f"the key is {HEX_KEY}",
    f"{HEX_KEY} is no key",
    f"api_key=\n{HEX_KEY}",
    f"Authorization: Digest username=u,\n  response={HEX_KEY}",
    f"//u:{HEX_KEY}@host",
    f"SecretStr('{HEX_KEY}')",
    f"provided: {OPENAI_KEY}.",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("provider", MODELS)
def test_a_recorded_error_message_contains_no_credential(
    provider: str,
    spelling: str,
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    lines: pytest.LogCaptureFixture,
) -> None:
    telemetry = instrument(error_messages="full")
    provider_server.reply = Reply(status=400, error_body={"error": {"message": f"Policy seven: {spelling}"}})
    llm = without_retries(get_llm(registry, provider, MODELS[provider]))
    with pytest.raises(Exception, match=r"400|Policy seven") as raised:
        llm.invoke(PROMPT)
    text = told(telemetry, lines)
    if "Policy seven" in str(raised.value):
        assert "Policy seven" in text
    assert [part for part in parts(OPENAI_KEY, HEX_KEY) if part in text] == []


IDENTIFIERS = ("id", "model", "system_fingerprint", "service_tier")


@pytest.mark.parametrize("text", [PROMPT, "紫鹭在第三座风车后面筑巢", "purple heron", "a\nb"])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_text_in_place_of_an_identifier_is_not_recorded(
    way: str, text: str, instrumented: Telemetry, registry: Any, provider_server: ProviderServer
) -> None:
    said = dict.fromkeys(IDENTIFIERS, text)
    if text == "purple heron":
        # Model names contain spaces too: "Llama 3 8B Instruct".
        said["model"] = "m"
    choice = {"index": 0, "finish_reason": text}
    message = {"role": "assistant", "content": "Hello"}
    provider_server.reply = Reply(
        body={**said, "object": "chat.completion", "created": 1, "choices": [{**choice, "message": message}]},
        events=[{**said, "object": "chat.completion.chunk", "created": 1, "choices": [{**choice, "delta": message}]}],
    )
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    _ = llm.invoke("x") if way == "invoke" else list(llm.stream("x"))
    attributes = instrumented.span("langchain.llm.invoke").attributes
    metrics = [dict(point.attributes) for points in instrumented.metrics().values() for point in points]
    assert text not in json.dumps([dict(attributes), metrics], ensure_ascii=False)
    assert json.dumps(text) not in json.dumps([dict(attributes), metrics])


# --- What the application raises in a call ---


def validation_error() -> Exception:
    class Form(BaseModel):
        number: int

    try:
        Form.model_validate({"number": SECRET})
    except ValueError as error:
        return error
    raise AssertionError


def syntax_error() -> SyntaxError:
    return SyntaxError(SECRET, (SECRET, 1, 1, SECRET, 1, 2))


def named_after(text: str) -> Exception:
    kind = type(text.replace(" ", "_"), (Exception,), {"__module__": text})
    return kind(text)


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    def __getattr__(self, name: str) -> Any:
        raise KeyError(SECRET)


RAISED: dict[str, Callable[[], BaseException]] = {
    "KeyError": lambda: KeyError(PROMPT),
    "with a key": lambda: KeyError(HEX_KEY),
    "every field": lambda: quoting(SECRET),
    "validation": validation_error,
    "syntax": syntax_error,
    "a class named after the key": lambda: named_after(OPENAI_KEY),
    "a class named after another key": lambda: named_after(HEX_KEY),
    "hostile": Hostile,
    "OSError": lambda: OSError(2, SECRET, SECRET, None, SECRET),
    "a group": lambda: ExceptionGroup(SECRET, [quoting(SECRET), ExceptionGroup(SECRET, [KeyError(PROMPT)])]),
    "JSON": lambda: json.JSONDecodeError(SECRET, SECRET, 3),
    "Unicode": lambda: UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    "httpx": lambda: httpx.ConnectError(SECRET, request=httpx.Request("GET", f"http://u:{HEX_KEY}@host/{HEX_KEY}")),
    "gRPC": lambda: grpc.RpcError(SECRET),
    "with a word as code": lambda: with_fields(code=HEX_KEY, type=HEX_KEY, param=HEX_KEY),
    "OpenAI's, with a word as code": lambda: openai_error(code=HEX_KEY, type=OPENAI_KEY, param=HEX_KEY),
    "ValueError of a mapping": lambda: ValueError({"code": HEX_KEY, "message": SECRET, "type": OPENAI_KEY}),
}


def with_fields(**fields: object) -> Exception:
    error = RuntimeError(SECRET)
    vars(error).update(fields)
    return error


def openai_error(**fields: object) -> Exception:
    import openai

    error = openai.APIError(SECRET, httpx.Request("GET", "http://host"), body=fields)
    vars(error).update(fields)
    return error


class Raising(BaseCallbackHandler):
    raise_error = True

    def __init__(self, error: BaseException, *, late: bool) -> None:
        self.error, self.late = error, late

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        if not self.late:
            raise self.error

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize("where", ["callback", "late callback", "transport", "client"])
@pytest.mark.parametrize("kind", RAISED)
def test_an_exception_raised_in_a_call_discloses_nothing_and_is_not_modified(
    kind: str,
    where: str,
    instrumented: Telemetry,
    registry: Any,
    lines: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RAISED[kind]()
    llm: Any = without_retries(get_llm(registry, "openai", "gpt-4o-mini"))
    config: Any = {}

    def fail(*_: object, **__: object) -> Any:
        raise error

    if "callback" in where:
        config["callbacks"] = [Raising(error, late=where != "callback")]
    elif where == "transport":
        # LangChain's models share one client.
        monkeypatch.setattr(llm.root_client._client, "event_hooks", {"request": [fail]})
    else:
        vars(llm.client)["create"] = fail
    before = vars(error).copy(), error.args, error.__cause__
    with pytest.raises(Exception) as raised:  # noqa: PT011
        list(llm.stream(PROMPT, config=config))
    assert error in (raised.value, raised.value.__cause__, raised.value.__context__)
    if where != "late callback":
        with pytest.raises(Exception):  # noqa: B017, PT011
            llm.invoke(PROMPT, config=config)
    assert (vars(error), error.args, error.__cause__) == before
    text = told(instrumented, lines)
    assert ('"name": "exception"' in text) is (where != "callback")
    assert_nothing_is_told(text)


def test_exceptions_of_tools_and_parsers_around_a_call_disclose_nothing(
    instrumented: Telemetry, registry: Any, provider_server: ProviderServer, lines: pytest.LogCaptureFixture
) -> None:
    provider_server.reply = Reply(text=ANSWER)
    llm = get_llm(registry, "openai", "gpt-4o-mini")

    @tool
    def look_up(place: str) -> str:
        """Look a place up."""
        raise KeyError(place)

    for chain in (llm | JsonOutputParser(), llm | RunnableLambda(lambda message: look_up.invoke(message.content))):
        with pytest.raises(Exception, match="velvet"):
            chain.invoke(PROMPT)
        # The next call must not record the exception that the application was handling.
        try:
            chain.invoke(PROMPT)
        except Exception:
            provider_server.reply = Reply(status=400)
            with pytest.raises(Exception, match="400"):
                llm.invoke(PROMPT)
            traceback.format_exc()
        provider_server.reply = Reply(text=ANSWER)
    assert_nothing_is_told(told(instrumented, lines))


# --- Names that hold a credential ---


@pytest.mark.parametrize("options", [{}, {"span_names": "semconv"}], ids=["default", "semconv"])
@pytest.mark.parametrize("provider", ["openai", "ollama", "google", "github_copilot"])
@pytest.mark.parametrize("key", [OPENAI_KEY, f"gpt-4o?key={HEX_KEY}", f"https://u:{HEX_KEY}@host/m", OWN_SECRET])
def test_a_key_in_a_name_is_not_recorded(
    key: str,
    provider: str,
    options: dict[str, Any],
    instrument: Callable[..., Telemetry],
    model_config: dict[str, Any],
    redirected: None,
    provider_server: ProviderServer,
    lines: pytest.LogCaptureFixture,
) -> None:
    data = model_config["providers"][provider]
    data["models"] = {key: {}, "alias": {"api_model_name": key}}
    if "api_key" in data.get("auth_data", {}):
        data["auth_data"]["api_key"] = OWN_SECRET
    else:
        data["headers"] = {"authorization": OWN_SECRET}
        key = key.replace(OWN_SECRET, OPENAI_KEY)
        data["models"] = {key: {}, "alias": {"api_model_name": key}}
    write_config(model_config)
    provider_server.reply = Reply(model="m")
    telemetry = instrument(**options)
    registry = ModelForgeRegistry()
    for alias in (key, "alias"):
        llm = without_retries(get_llm(registry, provider, alias))
        try:
            llm.invoke(PROMPT)
            list(llm.stream(PROMPT, model=key))
        except Exception as error:
            lines.clear()
            del error
    # An unknown name resolves to no model, so OWN_SECRET cannot be recognized as a model's secret.
    for bad in (key, f"unknown {key}") if key != OWN_SECRET else ():
        with pytest.raises(Exception):  # noqa: B017, PT011
            get_llm(registry, provider, bad + "x")
        with pytest.raises(Exception):  # noqa: B017, PT011
            get_llm(registry, bad, "m")
    text = told(telemetry, lines)
    for part in parts(HEX_KEY, OPENAI_KEY, OWN_SECRET):
        assert part not in text
