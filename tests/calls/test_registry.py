# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The telemetry of an instrumented `get_llm`, and that it returns and raises the same as without instrumentation."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from modelforge import ModelForgeRegistry
from modelforge import registry as registry_module
from modelforge.exceptions import (
    ConfigurationError,
    InvalidApiKeyError,
    ModelNotFoundError,
    ProviderError,
    ProviderNotAvailableError,
)
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge import registry as wrappers
from support.models import OPENAI_KEY, get_llm, write_config
from support.providers import ProviderServer
from support.telemetry import Telemetry

Instrument = Callable[..., Telemetry]


class Recorder(BaseCallbackHandler):
    """A user's handler."""

    def __init__(self) -> None:
        self.starts = 0

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1


def span_of(telemetry: Telemetry) -> ReadableSpan:
    return telemetry.span("modelforge.get_llm")


def injected(llm: Any) -> list[BaseCallbackHandler]:
    """Return our handlers on a model."""
    handlers = getattr(llm.callbacks, "handlers", llm.callbacks) or []
    return [handler for handler in handlers if isinstance(handler, OpenTelemetryCallback)]


@contextmanager
def baggage_set(**entries: str) -> Iterator[None]:
    current = context.get_current()
    for key, value in entries.items():
        current = baggage.set_baggage(key, value, current)
    token = context.attach(current)
    try:
        yield
    finally:
        context.detach(token)


# --- The span ---

OPENAI = {
    "modelforge.provider": "openai",
    "modelforge.model": "gpt-4o-mini",
    "modelforge.llm_type": "openai_compatible",
    "gen_ai.provider.name": "openai",
    "modelforge.api_model": "gpt-4o-mini",
    "server.address": "127.0.0.1",
    "modelforge.enhanced": False,
}


def test_a_get_llm_is_an_internal_span_with_the_models_attributes(
    registry: ModelForgeRegistry, instrumented: Telemetry, provider_server: ProviderServer
) -> None:
    get_llm(registry, "openai", "gpt-4o-mini")
    (span,) = instrumented.spans()
    assert (span.name, span.kind) == ("modelforge.get_llm", SpanKind.INTERNAL)
    assert span.attributes == OPENAI | {"server.port": provider_server.port}
    assert span.status.status_code is StatusCode.UNSET
    assert (span.parent, span.events, span.links) == (None, (), ())
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "opentelemetry_instrumentation_modelforge"


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        (
            "openai",
            "fast",
            {"modelforge.model": "fast", "modelforge.api_model": "gpt-4o-mini", "gen_ai.provider.name": "openai"},
        ),
        ("openrouter", "qwen", {"modelforge.api_model": "qwen/qwen3-coder", "gen_ai.provider.name": "openrouter"}),
        ("ollama", "llama3", {"modelforge.llm_type": "ollama", "gen_ai.provider.name": "ollama"}),
        (
            "google",
            "gemini",
            {
                "modelforge.llm_type": "google_genai",
                "gen_ai.provider.name": "gcp.gemini",
                "modelforge.api_model": "gemini-2.5-flash",
            },
        ),
        (
            "github_copilot",
            "claude",
            {
                "modelforge.llm_type": "github_copilot",
                "gen_ai.provider.name": "github_copilot",
                "modelforge.api_model": "claude-3.5-sonnet",
            },
        ),
    ],
)
def test_every_provider_has_the_name_that_the_conventions_define(
    registry: ModelForgeRegistry, instrumented: Telemetry, provider: str, model: str, expected: dict[str, Any]
) -> None:
    get_llm(registry, provider, model)
    attributes = dict(span_of(instrumented).attributes or {})
    assert attributes == attributes | {"modelforge.provider": provider, "modelforge.model": model} | expected
    assert attributes["server.address"] == "127.0.0.1"
    assert isinstance(attributes["server.port"], int)


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.get_llm(),
        lambda registry: registry.get_llm(None, None),
        lambda registry: registry.get_llm("openai", "gpt-4o-mini"),
        lambda registry: registry.get_llm("openai", model_alias="gpt-4o-mini"),
        lambda registry: registry.get_llm(model_alias="gpt-4o-mini", provider_name="openai"),
        lambda registry: registry.get_llm("openai", None),
        lambda registry: registry.get_llm("OpenAI", "gpt-4o-mini"),
    ],
    ids=["none", "None", "positions", "mixed", "keywords", "provider alone", "not normalized"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_recorded_model_is_the_one_modelforge_resolved(
    registry: ModelForgeRegistry,
    instrumented: Telemetry,
    provider_server: ProviderServer,
    ask: Callable[[ModelForgeRegistry], Any],
) -> None:
    ask(registry)
    assert span_of(instrumented).attributes == OPENAI | {"server.port": provider_server.port}


def test_the_configuration_is_not_read_again(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    def reads() -> tuple[int, int]:
        config = registry_module.config
        with (
            mock.patch.object(config, "get_current_model", wraps=config.get_current_model) as current,
            mock.patch.object(config, "get_config", wraps=config.get_config) as whole,
        ):
            get_llm(registry)
        return current.call_count, whole.call_count

    before = reads()
    instrument()
    assert reads() == before


def test_a_get_llm_is_a_child_of_the_callers_span_which_stays_current(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    with instrumented.tracer.start_as_current_span("request") as request:
        get_llm(registry)
        assert trace.get_current_span() is request
    parent = span_of(instrumented).parent
    assert parent is not None
    assert parent.span_id == request.get_span_context().span_id


def test_requests_made_by_get_llm_are_under_its_span(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    llm = get_llm(registry, enhanced=True)
    get, *nested = instrumented.spans()
    assert get.attributes is not None
    assert get.attributes["modelforge.enhanced"] is True
    assert type(llm).__name__ == "EnhancedLLM"
    # There is a request to models.dev.
    assert nested
    assert {span.name for span in nested} == {"GET"}
    assert {span.parent.span_id for span in nested if span.parent} == {get.context.span_id}


@pytest.mark.parametrize("option", [{}, {"attributes": {"team": "ml", "tier": 2, "tags": ["a", "b"]}}])
def test_both_spans_carry_the_attributes_configured(
    registry: ModelForgeRegistry, instrument: Instrument, option: dict[str, Any]
) -> None:
    telemetry = instrument(**option)
    get_llm(registry).invoke("Hi")
    expected = {"team": "ml", "tier": 2, "tags": ("a", "b")} if option else {}
    for name in ("modelforge.get_llm", "langchain.llm.invoke"):
        attributes = telemetry.span(name).attributes or {}
        assert {key: attributes[key] for key in ("team", "tier", "tags") if key in attributes} == expected


def test_both_spans_carry_only_the_requested_baggage(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    telemetry = instrument(baggage_keys=["tenant", "absent"])
    with baggage_set(tenant="acme", secret="hush"):
        get_llm(registry).invoke("Hi")
    for name in ("modelforge.get_llm", "langchain.llm.invoke"):
        attributes = telemetry.span(name).attributes or {}
        assert attributes["tenant"] == "acme"
        assert not {"secret", "absent"} & set(attributes)
    for points in telemetry.metrics().values():
        assert all("tenant" not in point.attributes for point in points)


def test_no_baggage_is_copied_by_default(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    with baggage_set(tenant="acme"):
        get_llm(registry).invoke("Hi")
    assert all("tenant" not in (span.attributes or {}) for span in instrumented.spans())


def test_the_credentials_in_a_base_url_stay_out_of_telemetry(
    instrumented: Telemetry, redirected: None, model_config: dict[str, Any], provider_server: ProviderServer
) -> None:
    model_config["providers"]["openai"]["base_url"] = (
        f"http://user:hunter2@127.0.0.1:{provider_server.port}/v1?token=hunter3#hunter4"
    )
    write_config(model_config)
    get_llm(ModelForgeRegistry())
    span = span_of(instrumented)
    assert "hunter" not in span.to_json()
    assert span.attributes == OPENAI | {"server.port": provider_server.port}


# --- What get_llm returns ---


def test_the_callback_is_added_to_any_callbacks_of_the_user(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    assert len(injected(get_llm(registry))) == 1
    assert len(injected(get_llm(registry, callbacks=None))) == 1
    assert len(injected(get_llm(registry, callbacks=[]))) == 1


@pytest.mark.parametrize("position", [True, False], ids=["position", "keyword"])
@pytest.mark.parametrize("make", [list, tuple, CallbackManager, AsyncCallbackManager])
def test_the_callers_callbacks_are_called_and_not_modified(
    registry: ModelForgeRegistry, instrumented: Telemetry, make: Callable[[list[Any]], Any], position: bool
) -> None:
    recorder = Recorder()
    given = make([recorder])
    contents = dict(vars(given)) if hasattr(given, "handlers") else None
    if position:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            llm: Any = registry.get_llm("openai", "gpt-4o-mini", given)
    else:
        llm = get_llm(registry, "openai", "gpt-4o-mini", callbacks=given)
    assert len(injected(llm)) == 1
    if contents is None:
        assert given == make([recorder])
    else:
        assert vars(given) == contents
        assert given.handlers == [recorder]
        assert type(llm.callbacks) is type(given)
    llm.invoke("Hi")
    assert recorder.starts == 1
    instrumented.span("langchain.llm.invoke")


def test_one_manager_given_for_two_models_is_not_modified(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    manager = CallbackManager([])
    one, two = get_llm(registry, callbacks=manager), get_llm(registry, "ollama", "llama3", callbacks=manager)
    assert manager.handlers == []
    assert injected(one) != injected(two)


def test_an_enhanced_model_has_one_span_per_call(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    recorder = Recorder()
    get_llm(registry, enhanced=True, callbacks=[recorder]).invoke("Hi")
    instrumented.span("langchain.llm.invoke")


@pytest.mark.parametrize("enhanced", [False, True], ids=["plain", "enhanced"])
def test_the_users_handler_is_called_as_often_as_without_instrumentation(
    registry: ModelForgeRegistry, instrument: Instrument, enhanced: bool
) -> None:
    def starts() -> int:
        recorder = Recorder()
        get_llm(registry, enhanced=enhanced, callbacks=[recorder]).invoke("Hi")
        return recorder.starts

    before = starts()
    instrument()
    assert starts() == before


def test_two_models_that_were_equal_are_equal(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    def models() -> list[Any]:
        return [get_llm(registry, "ollama", "llama3") for _ in range(2)]

    one, two = models()
    assert one == two
    instrument()
    one, two = models()
    assert one == two
    assert one != get_llm(registry, "ollama", "llama3", callbacks=[Recorder()])


@pytest.mark.parametrize(
    ("provider", "model", "enhanced"),
    [
        ("openai", "gpt-4o-mini", False),
        ("openai", "gpt-4o-mini", True),
        ("google", "gemini", False),
        ("ollama", "llama3", False),
    ],
)
def test_a_model_dumps_and_is_looked_up_in_langchains_cache_as_without_instrumentation(
    registry: ModelForgeRegistry, instrument: Instrument, provider: str, model: str, enhanced: bool
) -> None:
    def facts() -> tuple[Any, ...]:
        llm: Any = get_llm(registry, provider, model, enhanced=enhanced)
        return llm._get_llm_string(), llm.model_dump().keys(), llm.model_fields_set, llm._identifying_params

    before = facts()
    instrument()
    assert facts() == before


@pytest.mark.parametrize("spec", [None, registry_module.ChatOpenAI], ids=["without spec", "with spec"])
def test_a_mock_is_returned_unchanged(
    registry: ModelForgeRegistry, instrumented: Telemetry, caplog: pytest.LogCaptureFixture, spec: type | None
) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry_instrumentation_modelforge")
    fake = mock.MagicMock(spec=spec)
    before = dict(vars(fake))
    with mock.patch.object(registry_module, "ChatOpenAI", return_value=fake) as make:
        assert get_llm(registry, "openai", "gpt-4o-mini", callbacks=None) is fake
    make.assert_called_once_with(
        model="gpt-4o-mini", api_key=OPENAI_KEY, base_url=make.call_args.kwargs["base_url"], callbacks=None
    )
    assert fake.mock_calls == []
    assert vars(fake) == before
    assert span_of(instrumented).attributes == {
        **OPENAI,
        "server.port": int(make.call_args.kwargs["base_url"].split(":")[2].removesuffix("/v1")),
    }
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


@pytest.mark.skipif(
    "enhanced" not in inspect.signature(ModelForgeRegistry.get_llm).parameters, reason="ModelForge 2.0 warns of nothing"
)
def test_the_future_warning_is_raised_once(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        registry.get_llm("openai", "gpt-4o-mini")
    # Python attributes it to the caller of get_llm, which is this package's wrapper.
    assert [(warning.category, warning.filename) for warning in caught] == [(FutureWarning, wrappers.__file__)]


# --- Failures ---

FAILURES: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, str], type[Exception], dict[str, str]]] = {
    "unknown provider": (
        lambda config: None,
        ("nowhere", "gpt-4o-mini"),
        ProviderNotAvailableError,
        {"modelforge.provider": "nowhere", "modelforge.model": "gpt-4o-mini"},
    ),
    "unknown model": (
        lambda config: None,
        ("openai", "gpt-9"),
        ModelNotFoundError,
        {"modelforge.provider": "openai", "modelforge.model": "gpt-9"},
    ),
    "missing key": (
        lambda config: config["providers"]["openai"].update(auth_strategy=""),
        ("openai", "gpt-4o-mini"),
        InvalidApiKeyError,
        {"modelforge.provider": "openai", "modelforge.api_model": "gpt-4o-mini"},
    ),
    "unsupported llm_type": (
        lambda config: config["providers"]["openai"].update(llm_type="carrier_pigeon"),
        ("openai", "gpt-4o-mini"),
        ProviderError,
        {"modelforge.llm_type": "carrier_pigeon"},
    ),
    "no llm_type": (
        lambda config: config["providers"]["openai"].pop("llm_type"),
        ("openai", "gpt-4o-mini"),
        ConfigurationError,
        {"modelforge.provider": "openai"},
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_ends_the_span_with_an_error_and_reaches_the_caller(
    instrumented: Telemetry, redirected: None, model_config: dict[str, Any], case: str
) -> None:
    change, (provider, model), kind, attributes = FAILURES[case]
    change(model_config)
    write_config(model_config)
    registry = ModelForgeRegistry()
    with pytest.raises(kind) as raised:
        get_llm(registry, provider, model)
    assert type(raised.value) is kind
    (span,) = instrumented.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == f"modelforge.exceptions.{kind.__name__}: {raised.value}"
    assert span.attributes is not None
    assert dict(span.attributes) == {
        **span.attributes,
        **attributes,
        "error.type": f"modelforge.exceptions.{kind.__name__}",
    }
    assert "modelforge.enhanced" not in span.attributes
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.type"] == f"modelforge.exceptions.{kind.__name__}"
    assert event.attributes["exception.message"] == span.status.description
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_without_a_current_model_no_model_is_recorded(
    instrumented: Telemetry, redirected: None, model_config: dict[str, Any]
) -> None:
    del model_config["current_model"]
    write_config(model_config)
    with pytest.raises(ConfigurationError):
        get_llm(ModelForgeRegistry())
    span = span_of(instrumented)
    assert span.attributes == {"error.type": "modelforge.exceptions.ConfigurationError"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), RuntimeError(f"bad key {OPENAI_KEY}")])
def test_the_exception_that_reaches_the_caller_is_the_original_object(
    registry: ModelForgeRegistry, instrumented: Telemetry, error: BaseException
) -> None:
    with (
        mock.patch.object(registry_module, "ChatOpenAI", side_effect=error),
        pytest.raises(type(error)) as raised,
    ):
        get_llm(registry, "openai", "gpt-4o-mini")
    assert raised.value is error
    span = span_of(instrumented)
    assert span.attributes is not None
    assert span.attributes["error.type"] == type(error).__name__
    assert span.status.status_code is StatusCode.ERROR
    assert OPENAI_KEY not in span.to_json()
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("arguments", [("a", "b", "c", "d", "e", "f"), ({}, 5), (b"openai", "gpt-4o-mini")])
def test_invalid_arguments_fail_as_without_instrumentation(
    registry: ModelForgeRegistry, instrument: Instrument, arguments: tuple[Any, ...]
) -> None:
    def failure() -> tuple[type[BaseException], str]:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            registry.get_llm(*arguments)
        return raised.type, str(raised.value)

    before = failure()
    instrument()
    assert failure() == before


@pytest.mark.parametrize(
    ("option", "description"),
    [({}, "RuntimeError"), ({"error_messages": "full"}, "RuntimeError: bad key [REDACTED]")],
    ids=["safe", "full"],
)
def test_the_configured_key_is_never_recorded_with_a_failure_whatever_its_format(
    instrument: Instrument,
    redirected: None,
    model_config: dict[str, Any],
    option: dict[str, Any],
    description: str,
) -> None:
    telemetry = instrument(**option)
    model_config["providers"]["openai"]["auth_data"]["api_key"] = "correct horse battery staple"
    write_config(model_config)

    def fail(api_key: str, **options: Any) -> None:
        raise RuntimeError(f"bad key {api_key}")

    with (
        mock.patch.object(registry_module, "ChatOpenAI", fail),
        pytest.raises(RuntimeError, match="bad key correct horse battery staple"),
    ):
        get_llm(ModelForgeRegistry())
    span = span_of(telemetry)
    assert span.status.description == description
    assert "horse" not in span.to_json()


def test_the_error_that_the_application_was_already_handling_is_not_recorded(
    instrument: Instrument, redirected: None, model_config: dict[str, Any]
) -> None:
    telemetry = instrument(error_messages="full")
    write_config(model_config)
    client = mock.Mock(side_effect=RuntimeError("no client"))
    with mock.patch.object(registry_module, "ChatOpenAI", client):
        try:
            _ = {}["a customer's name"]
        except KeyError:
            with pytest.raises(RuntimeError):
                get_llm(ModelForgeRegistry())
    span = span_of(telemetry)
    assert span.status.description == "RuntimeError: no client"
    assert "customer" not in span.to_json()


# --- Callers ---


def test_a_registry_created_before_instrumentation_is_instrumented(
    registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    telemetry = instrument()
    get_llm(registry).invoke("Hi")
    assert [span.name for span in telemetry.spans()] == ["modelforge.get_llm", "langchain.llm.invoke", "POST"]


def test_a_bound_method_obtained_before_instrumentation_is_not_instrumented(
    registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    bound = registry.get_llm
    telemetry = instrument()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert injected(bound("openai", "gpt-4o-mini")) == []
    assert telemetry.spans() == []


def test_a_subclass_that_calls_super_has_one_span(
    registry: ModelForgeRegistry, instrumented: Telemetry, redirected: None
) -> None:
    class Mine(ModelForgeRegistry):
        def get_llm(self, *args: Any, **kwargs: Any) -> Any:
            return get_llm(super(), "openai", "gpt-4o-mini")  # type: ignore[arg-type]

    assert len(injected(get_llm(Mine(), "acme", "any"))) == 1
    span_of(instrumented)


def test_the_recorded_model_of_a_subclass_is_the_one_that_the_subclass_resolved(
    registry: ModelForgeRegistry, instrumented: Telemetry, provider_server: ProviderServer
) -> None:
    class Mine(ModelForgeRegistry):
        def _get_model_config(self, provider_name: str | None, model_alias: str | None) -> Any:
            return super()._get_model_config("openai", "gpt-4o-mini")

    assert len(injected(get_llm(Mine(), "any", "any"))) == 1
    assert span_of(instrumented).attributes == OPENAI | {"server.port": provider_server.port}


def test_a_registry_used_inside_another_has_its_own_span(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    inner = ModelForgeRegistry()

    def make(**kwargs: Any) -> Any:
        return get_llm(inner, "ollama", "llama3")

    with mock.patch.object(registry_module, "ChatOpenAI", make):
        llm = get_llm(registry, "openai", "gpt-4o-mini")
    outer_span, inner_span = instrumented.spans()
    assert inner_span.parent is not None
    assert inner_span.parent.span_id == outer_span.context.span_id
    assert [(span.attributes or {})["modelforge.provider"] for span in (outer_span, inner_span)] == ["openai", "ollama"]
    assert len(injected(llm)) == 1


def test_a_suppressed_get_llm_has_no_span_and_no_callback(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    with suppress_instrumentation():
        llm = get_llm(registry)
    assert instrumented.spans() == []
    assert injected(llm) == []


def test_an_unsampled_get_llm_still_returns_a_model_whose_calls_are_measured(
    registry: ModelForgeRegistry, instrument: Instrument, tracer_provider: TracerProvider
) -> None:
    tracer_provider.sampler = ALWAYS_OFF
    telemetry = instrument()
    get_llm(registry).invoke("Hi")
    assert telemetry.spans() == []
    (point,) = telemetry.metrics()["gen_ai.client.operation.duration"]
    assert point.count == 1


def test_introspection_of_the_wrappers_shows_the_wrapped_functions(
    registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    def facts() -> list[Any]:
        return [
            (inspect.signature(f), f.__name__, f.__qualname__, f.__doc__, f.__module__, inspect.getsource(f))
            for f in (ModelForgeRegistry.get_llm, ModelForgeRegistry.__init__, registry.get_llm)
        ]

    before = facts()
    instrument()
    assert facts() == before


# --- Faults ---


def test_a_malformed_configuration_does_not_stop_get_llm(
    registry: ModelForgeRegistry, instrumented: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    strange = mock.MagicMock()
    strange.get.side_effect = {"llm_type": "openai_compatible", "base_url": object()}.get
    fake = mock.MagicMock()
    with (
        mock.patch.object(registry_module, "ChatOpenAI", return_value=fake),
        mock.patch.object(registry_module.auth, "get_credentials", return_value={"api_key": OPENAI_KEY}),
        mock.patch.dict(registry._config["providers"], openai=strange),
        mock.patch.object(ModelForgeRegistry, "_get_model_config", return_value=("openai", "fast", strange, strange)),
    ):
        assert get_llm(registry) is fake
    span_of(instrumented)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
