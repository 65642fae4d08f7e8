# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""When ModelForge is patched, how every patch is undone, and `opentelemetry-instrument` as a whole."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import pickle
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import modelforge
import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from modelforge import ModelForgeRegistry
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from packaging.requirements import Requirement
from wrapt import wrap_function_wrapper

import opentelemetry_instrumentation_modelforge as package
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback, instrumentor
from opentelemetry_instrumentation_modelforge.telemetry import active_telemetry
from support.calls import MODEL_SPAN
from support.models import get_llm, write_config
from support.providers import ProviderServer, unused_port
from support.telemetry import Telemetry, spans_in

Python = Callable[..., "subprocess.CompletedProcess[str]"]
Instrument = Callable[..., Telemetry]
Functions = dict[tuple[type, str], Any]

REGISTRY = "modelforge.registry"
PATCHED = {
    (ModelForgeRegistry, "__init__"),
    (ModelForgeRegistry, "_get_model_config"),
    (ModelForgeRegistry, "get_llm"),
    (BaseChatModel, "generate"),
    (BaseChatModel, "agenerate"),
    (BaseChatModel, "_generate_with_cache"),
    (BaseChatModel, "_agenerate_with_cache"),
    (BaseChatModel, "stream"),
    (BaseChatModel, "astream"),
    (CallbackManagerForLLMRun, "on_llm_new_token"),
    (AsyncCallbackManagerForLLMRun, "on_llm_new_token"),
}
OWNERS = {owner for owner, _ in PATCHED}


@pytest.fixture(autouse=True)
def nothing_patched() -> Iterator[None]:
    """Check that a test neither finds nor leaves a patch."""
    before = functions()
    assert active_telemetry() is None
    yield
    if ModelForgeInstrumentor().is_instrumented_by_opentelemetry:
        ModelForgeInstrumentor().uninstrument()
    assert changed(before) == set()
    assert active_telemetry() is None


def functions(*owners: type) -> Functions:
    """Return the objects in the class dictionaries that might be patched."""
    return {
        (owner, name): value
        for owner in owners or OWNERS
        for name, value in vars(owner).items()
        if not name.startswith("_abc_")
    }


def changed(before: Functions) -> set[tuple[type, str]]:
    after = functions(*{owner for owner, _ in before})
    assert after.keys() == before.keys()
    return {key for key, value in after.items() if value is not before[key]}


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> Callable[[], ModuleType]:
    """Make `modelforge.registry` a module that is not imported yet. Call the result to import it again."""
    monkeypatch.setattr(modelforge, "registry", sys.modules[REGISTRY])
    monkeypatch.delitem(sys.modules, REGISTRY)
    return lambda: importlib.import_module(REGISTRY)


# --- When it is patched ---


def test_instrumenting_imports_neither_modelforge_nor_langchain(python: Python) -> None:
    done = python(
        "-c",
        "import sys\n"
        "from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor\n"
        "ModelForgeInstrumentor().instrument(attributes={'team': 'ml'}, cost=True)\n"
        "ModelForgeInstrumentor().uninstrument()\n"
        "ModelForgeInstrumentor().instrument()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}\n"
        "      & {'modelforge', 'pydantic', 'genai_prices', 'httpx', 'requests'}))\n"
        "print([name for name in sys.modules if name.startswith(('langchain', 'opentelemetry.sdk'))])",
    )
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


def test_all_public_names_exist_and_no_others() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_a_module_that_is_already_imported_is_patched_immediately(instrument: Instrument) -> None:
    before = functions()
    instrument()
    assert changed(before) == PATCHED


def test_a_module_that_is_imported_later_is_patched_on_import(
    not_imported: Callable[[], ModuleType], registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    telemetry = instrument()
    assert active_telemetry() is None
    later = not_imported()
    assert active_telemetry() is not None
    get_llm(later.ModelForgeRegistry()).invoke("Hi")
    assert [span.name for span in telemetry.spans()] == ["modelforge.get_llm", MODEL_SPAN, "POST"]


def test_uninstrumenting_undoes_patches_applied_on_import(
    not_imported: Callable[[], ModuleType], instrument: Instrument
) -> None:
    instrument()
    later = not_imported()
    ModelForgeInstrumentor().uninstrument()
    for name in ("__init__", "_get_model_config", "get_llm"):
        function = vars(later.ModelForgeRegistry)[name]
        assert type(function) is type(lambda: None)
        assert function.__code__.co_filename == later.__file__
        assert not hasattr(function, "__wrapped__")


def test_uninstrumenting_before_the_import_leaves_nothing_to_do_on_import(
    not_imported: Callable[[], ModuleType], instrument: Instrument
) -> None:
    before = functions(BaseChatModel)
    instrument()
    ModelForgeInstrumentor().uninstrument()
    later = not_imported()
    assert type(vars(later.ModelForgeRegistry)["get_llm"]) is type(lambda: None)
    assert changed(before) == set()


def test_instrumenting_again_before_the_import_patches_once(
    not_imported: Callable[[], ModuleType], registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    instrument(attributes={"turn": 1})
    ModelForgeInstrumentor().uninstrument()
    telemetry = instrument(attributes={"turn": 2})
    later = not_imported()
    assert not hasattr(vars(later.ModelForgeRegistry)["get_llm"].__wrapped__, "__wrapped__")
    get_llm(later.ModelForgeRegistry())
    assert (telemetry.span("modelforge.get_llm").attributes or {})["turn"] == 2


def test_instrumenting_while_another_thread_imports_modelforge_patches_it(python: Python) -> None:
    done = python(
        "-c",
        """
import sys, threading
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

importing, go_on = threading.Event(), threading.Event()

class Pause:
    def find_spec(self, name, path=None, target=None):
        if name == "modelforge.enhanced_llm":
            importing.set()
            go_on.wait(60)

sys.meta_path.insert(0, Pause())
importer = threading.Thread(target=lambda: __import__("modelforge.registry"))
importer.start()
importing.wait(60)
instrumenting = threading.Thread(target=ModelForgeInstrumentor().instrument)
instrumenting.start()
instrumenting.join(0.2)
go_on.set()
instrumenting.join(60)
importer.join(60)
print(hasattr(vars(sys.modules["modelforge.registry"].ModelForgeRegistry)["get_llm"], "__wrapped__"))
""",
    )
    assert done.stdout == "True\n"
    assert "Telemetry fault" not in done.stderr


@pytest.mark.parametrize("way", ["keyword", "environment"])
def test_modelforge_is_not_patched_if_the_instrumentation_is_disabled(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    before = functions()
    if way == "keyword":
        instrument(enabled=False)
    else:
        monkeypatch.setenv("OTEL_PYTHON_MODELFORGE_ENABLED", "false")
        instrument()
    assert changed(before) == set()
    assert active_telemetry() is None
    ModelForgeInstrumentor().uninstrument()
    assert changed(before) == set()


# --- How it is undone ---


def test_uninstrumenting_restores_the_original_functions(instrument: Instrument) -> None:
    before = functions()
    instrument()
    ModelForgeInstrumentor().uninstrument()
    assert changed(before) == set()


def test_models_handed_out_before_stop_recording_and_resume_when_instrumented_again(
    registry: ModelForgeRegistry, instrument: Instrument, span_exporter: InMemorySpanExporter
) -> None:
    telemetry = instrument()
    llm = get_llm(registry)
    ModelForgeInstrumentor().uninstrument()
    span_exporter.clear()
    assert llm.invoke("Hi").content == "Hello there friend"
    assert list(llm.stream("Hi"))
    assert MODEL_SPAN not in [span.name for span in telemetry.spans()]
    span_exporter.clear()
    instrument(attributes={"turn": 2})
    llm.invoke("Hi")
    assert (telemetry.span(MODEL_SPAN).attributes or {})["turn"] == 2


def test_models_handed_out_before_record_with_the_providers_of_the_next_instrument(
    registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    instrument()
    llm = get_llm(registry)
    ModelForgeInstrumentor().uninstrument()
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ModelForgeInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    llm.invoke("Hi")
    assert [span.name for span in exporter.get_finished_spans()] == [MODEL_SPAN]


@pytest.mark.parametrize("name", ["get_llm", "__init__", "generate", "stream", "_generate_with_cache"])
def test_a_wrapt_wrapper_on_top_stays_and_wraps_the_original(
    instrument: Instrument, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ((owner, _),) = (key for key in PATCHED if key[1] == name)
    original = vars(owner)[name]
    monkeypatch.setattr(owner, name, original)
    instrument()
    wrap_function_wrapper(owner, name, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))
    on_top = vars(owner)[name]
    ModelForgeInstrumentor().uninstrument()
    assert vars(owner)[name] is on_top
    assert on_top.__wrapped__ is original
    unwrap(owner, name)
    assert vars(owner)[name] is original


def plain_wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("name", ["get_llm", "generate", "stream"])
def test_a_plain_wrapper_on_top_stays_and_ours_has_no_effect_under_it(
    registry: ModelForgeRegistry, instrument: Instrument, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ((owner, _),) = (key for key in PATCHED if key[1] == name)
    monkeypatch.setattr(owner, name, vars(owner)[name])
    telemetry = instrument()
    on_top = plain_wrapper(vars(owner)[name])
    monkeypatch.setattr(owner, name, on_top)
    ModelForgeInstrumentor().uninstrument()
    assert vars(owner)[name] is on_top
    llm = get_llm(registry)
    llm.invoke("Hi")
    list(llm.stream("Hi"))
    assert not {"modelforge.get_llm", MODEL_SPAN} & {span.name for span in telemetry.spans()}


@pytest.mark.parametrize("name", ["get_llm", "_get_model_config", "generate", "_generate_with_cache", "stream"])
@pytest.mark.parametrize("wrap", ["wrapt", "plain"])
def test_instrumenting_again_over_another_wrapper_creates_each_span_once(
    registry: ModelForgeRegistry, instrument: Instrument, monkeypatch: pytest.MonkeyPatch, name: str, wrap: str
) -> None:
    ((owner, _),) = (key for key in PATCHED if key[1] == name)
    monkeypatch.setattr(owner, name, vars(owner)[name])
    telemetry = instrument()
    if wrap == "wrapt":
        wrap_function_wrapper(owner, name, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))
    else:
        setattr(owner, name, plain_wrapper(vars(owner)[name]))
    ModelForgeInstrumentor().uninstrument()
    instrument()
    llm = get_llm(registry)
    llm.invoke("Hi")
    list(llm.stream("Hi"))
    names = [span.name for span in telemetry.spans() if span.name != "POST"]
    assert names == ["modelforge.get_llm", MODEL_SPAN, MODEL_SPAN]


@pytest.mark.parametrize("name", ["get_llm", "generate", "stream"])
def test_a_wrapper_underneath_is_restored(
    registry: ModelForgeRegistry, instrument: Instrument, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ((owner, _),) = (key for key in PATCHED if key[1] == name)
    underneath = plain_wrapper(vars(owner)[name])
    monkeypatch.setattr(owner, name, underneath)
    telemetry = instrument()
    list(get_llm(registry).stream("Hi"))
    telemetry.span(MODEL_SPAN)
    ModelForgeInstrumentor().uninstrument()
    assert vars(owner)[name] is underneath


def test_a_get_llm_that_is_running_during_uninstrument_ends_its_span(
    registry: ModelForgeRegistry, instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = instrument()
    create = sys.modules[REGISTRY].ChatOpenAI

    def uninstrument_first(**options: Any) -> Any:
        ModelForgeInstrumentor().uninstrument()
        return create(**options)

    monkeypatch.setattr(sys.modules[REGISTRY], "ChatOpenAI", uninstrument_first)
    llm = get_llm(registry)
    telemetry.span("modelforge.get_llm")
    assert llm.invoke("Hi").content == "Hello there friend"
    assert MODEL_SPAN not in [span.name for span in telemetry.spans()]


# --- Again and again ---


def test_instrumenting_twice_wraps_nothing_twice(
    registry: ModelForgeRegistry, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = instrument()
    patched = functions()
    ModelForgeInstrumentor().instrument(skip_dep_check=True)
    assert changed(patched) == set()
    assert "Attempting to instrument while already instrumented" in caplog.messages
    get_llm(registry).invoke("Hi")
    assert [span.name for span in telemetry.spans()] == ["modelforge.get_llm", MODEL_SPAN, "POST"]


def test_uninstrumenting_twice_changes_nothing(instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    before = functions()
    instrument()
    ModelForgeInstrumentor().uninstrument()
    ModelForgeInstrumentor().uninstrument()
    assert changed(before) == set()
    assert "Attempting to uninstrument while already uninstrumented" in caplog.messages


def installations() -> int:
    gc.collect()
    return sum(type(item) is instrumentor._Installation for item in gc.get_objects())


def test_instrumenting_many_times_does_not_grow_memory(tracer_provider: TracerProvider) -> None:
    before, finders, left = functions(), len(sys.meta_path), installations()
    for _ in range(50):
        ModelForgeInstrumentor().instrument(tracer_provider=tracer_provider, skip_dep_check=True)
        ModelForgeInstrumentor().uninstrument()
    assert changed(before) == set()
    assert len(sys.meta_path) <= finders + 1
    assert installations() == left


def test_instrumenting_many_times_before_the_import_does_not_grow_memory(
    not_imported: Callable[[], ModuleType],
) -> None:
    left = installations()
    for _ in range(50):
        ModelForgeInstrumentor().instrument(skip_dep_check=True)
        ModelForgeInstrumentor().uninstrument()
    assert installations() <= left + 1
    not_imported()


def test_uninstrumenting_before_the_import_releases_the_providers(not_imported: Callable[[], ModuleType]) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    ModelForgeInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    ModelForgeInstrumentor().uninstrument()
    dropped = weakref.ref(provider)
    del provider
    gc.collect()
    assert dropped() is None
    not_imported()


def test_unpickling_a_callback_imports_modelforge_only_while_instrumented(
    not_imported: Callable[[], ModuleType], instrument: Instrument
) -> None:
    callback = OpenTelemetryCallback("openai", "gpt-4o-mini")
    callback.injected = True
    pickled = pickle.dumps(callback)
    pickle.loads(pickled)
    assert REGISTRY not in sys.modules
    instrument()
    ModelForgeInstrumentor().uninstrument()
    pickle.loads(pickled)
    assert REGISTRY not in sys.modules
    instrument()
    pickle.loads(pickled)
    assert REGISTRY in sys.modules


def test_two_threads_that_instrument_simultaneously_wrap_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    before = functions()
    both = threading.Barrier(2)
    check = instrumentor.check_keywords

    def check_together(*args: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return check(*args)

    monkeypatch.setattr(instrumentor, "check_keywords", check_together)
    threads = [
        threading.Thread(target=ModelForgeInstrumentor().instrument, kwargs={"skip_dep_check": True}) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrapped_once = vars(ModelForgeRegistry)["get_llm"].__wrapped__ is before[ModelForgeRegistry, "get_llm"]
    ModelForgeInstrumentor().uninstrument()
    left = changed(before)
    for owner, name in left:
        setattr(owner, name, before[owner, name])
    assert wrapped_once
    assert left == set()


def test_instrumenting_and_uninstrumenting_in_many_threads_leaves_no_patch() -> None:
    before = functions()

    def toggle() -> None:
        for _ in range(10):
            ModelForgeInstrumentor().instrument(skip_dep_check=True)
            ModelForgeInstrumentor().uninstrument()

    logging.getLogger("opentelemetry.instrumentation.instrumentor").disabled = True
    threads = [threading.Thread(target=toggle) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        logging.getLogger("opentelemetry.instrumentation.instrumentor").disabled = False
    if ModelForgeInstrumentor().is_instrumented_by_opentelemetry:
        ModelForgeInstrumentor().uninstrument()
    left = changed(before)
    for owner, name in left:
        setattr(owner, name, before[owner, name])
    assert left == set()


# --- Errors ---


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"span_name": "semconv"}, TypeError, "instrument() has no option 'span_name'"),
        ({"trace_provider": None}, TypeError, "did you mean tracer_provider?"),
        ({"enabled": "yes"}, TypeError, "instrument(enabled='yes')"),
        ({"span_names": "long"}, ValueError, "instrument(span_names='long')"),
        ({"baggage_keys": "user.id"}, TypeError, "instrument(baggage_keys='user.id')"),
        ({"attributes": {"a": {}}}, TypeError, "instrument(attributes={'a': {}})"),
        ({"request_hook": "hook"}, TypeError, "instrument(request_hook='hook')"),
        ({"max_content_length": -1}, ValueError, "instrument(max_content_length=-1)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_invalid_option_is_an_error_that_names_it_and_nothing_is_patched(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    before = functions()
    with pytest.raises(kind) as raised:
        ModelForgeInstrumentor().instrument(skip_dep_check=True, **options)
    assert message.lower() in str(raised.value).lower()
    assert changed(before) == set()
    assert not ModelForgeInstrumentor().is_instrumented_by_opentelemetry


def test_a_valid_option_works_after_an_invalid_one(instrument: Instrument) -> None:
    before = functions()
    with pytest.raises(TypeError):
        ModelForgeInstrumentor().instrument(skip_dep_check=True, nonsense=True)
    instrument()
    assert changed(before) == PATCHED


def test_the_supported_versions_of_modelforge() -> None:
    (dependency,) = ModelForgeInstrumentor().instrumentation_dependencies()
    requirement = Requirement(dependency)
    assert requirement.name == "model-forge-llm"
    for version, known in {"1.9.9": False, "2.0.0": True, "2.3.0": True, "2.99.0": True, "3.0.0": False}.items():
        assert requirement.specifier.contains(version) is known
    assert requirement.specifier.contains(metadata.version("model-forge-llm"))


@pytest.mark.parametrize("version", ["1.9.0", "3.0.0"])
def test_an_unsupported_version_is_reported_and_not_patched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    from opentelemetry.instrumentation import dependencies

    before = functions()
    monkeypatch.setattr(dependencies, "version", lambda name: version)
    ModelForgeInstrumentor().instrument()
    assert changed(before) == set()
    (message,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert "model-forge-llm >= 2.0.0, < 3" in message
    assert version in message


@pytest.mark.parametrize("error", [RuntimeError("a bad provider"), AttributeError("get_tracer")])
def test_a_fault_while_patching_does_not_break_the_import(
    not_imported: Callable[[], ModuleType], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    class Provider(TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    caplog.set_level(logging.DEBUG, "opentelemetry_instrumentation_modelforge")
    ModelForgeInstrumentor().instrument(tracer_provider=Provider(shutdown_on_exit=False), skip_dep_check=True)
    assert not_imported().ModelForgeRegistry.__name__ == "ModelForgeRegistry"
    assert active_telemetry() is None
    (record,) = caplog.records
    fault, *stack = record.getMessage().splitlines()
    assert fault == "Telemetry fault while instrumenting ModelForge; the application is not affected"
    assert (stack[0], stack[-1]) == ("Traceback (most recent call last):", type(error).__name__)


def test_a_broken_configuration_file_does_not_break_the_import(
    not_imported: Callable[[], ModuleType], instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    from modelforge.config import GLOBAL_CONFIG_FILE

    GLOBAL_CONFIG_FILE.parent.mkdir(parents=True, exist_ok=True)
    GLOBAL_CONFIG_FILE.write_text("{broken")
    try:
        instrument()
        not_imported()
    finally:
        write_config({})
    assert active_telemetry() is not None
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("opentelemetry_instrumentation")]
    assert len(messages) == 1
    assert str(GLOBAL_CONFIG_FILE) in messages[0]


def test_a_function_missing_from_modelforge_is_reported_and_the_rest_patched(
    not_imported: Callable[[], ModuleType],
    instrument: Instrument,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = functions(BaseChatModel)
    monkeypatch.delattr(BaseChatModel, "_agenerate_with_cache")
    instrument()
    not_imported()
    assert "BaseChatModel has no _agenerate_with_cache: telemetry that depends on it is missing" in caplog.messages
    assert active_telemetry() is not None
    ModelForgeInstrumentor().uninstrument()
    monkeypatch.undo()
    assert changed(before) == set()


# --- Without an SDK, and switched off ---

APP = """
from modelforge import ModelForgeRegistry
import inspect
registry = ModelForgeRegistry()
options = {"enhanced": False} if "enhanced" in inspect.signature(registry.get_llm).parameters else {}
llm = registry.get_llm("openai", "gpt-4o-mini", **options)
print(llm.invoke("Hi").content)
print("".join(chunk.content for chunk in llm.stream("Hi")))
"""
ANSWERS = "Hello there friend\nHello there friend\n"
HIDE_SDK = """
import sys
class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hider())
"""


@pytest.fixture
def app(model_config: dict[str, Any], tmp_path: Path) -> Path:
    """A program that calls a model on `provider_server`."""
    write_config(model_config)
    path = tmp_path / "app.py"
    path.write_text("import logging; logging.disable(logging.INFO)\n" + APP)
    return path


def test_without_an_sdk_the_application_works_and_nothing_is_logged(python: Python, app: Path) -> None:
    app.write_text(
        HIDE_SDK
        + "from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, is_otel_available\n"
        + "ModelForgeInstrumentor().instrument()\n"
        + app.read_text()
        + "print(is_otel_available())\n"
    )
    done = python("-W", "error::Warning:opentelemetry_instrumentation_modelforge", str(app))
    assert done.stdout == f"{ANSWERS}False\n"
    assert "opentelemetry" not in done.stderr.lower()


def test_a_disabled_sdk_records_nothing(
    registry: ModelForgeRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ModelForgeInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    assert get_llm(registry).invoke("Hi").content == "Hello there friend"
    assert exporter.get_finished_spans() == ()
    assert [r for r in caplog.records if r.name.startswith("opentelemetry_instrumentation_modelforge")] == []


# --- opentelemetry-instrument ---


@pytest.fixture
def zero_code(python: Python) -> Callable[..., tuple[str, str, list[dict[str, Any]]]]:
    """Run a command under `opentelemetry-instrument` and return its output, errors, and spans in start order."""
    entry_points = metadata.entry_points(group="opentelemetry_instrumentor")
    if not any(point.value.startswith("opentelemetry_instrumentation_modelforge:") for point in entry_points):
        pytest.skip("opentelemetry-instrumentation-modelforge is not installed here, so nobody discovers it")
    scripts = Path(sysconfig.get_path("scripts"))

    def run(*command: str, **environment: str) -> tuple[str, str, list[dict[str, Any]]]:
        done = python(
            str(scripts / "opentelemetry-instrument"),
            *command,
            **{
                "PATH": str(scripts),
                "OTEL_TRACES_EXPORTER": "console",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                "HTTPS_PROXY": f"http://127.0.0.1:{unused_port()}",
                **environment,
            },
        )
        assert done.returncode == 0, done.stderr
        output, spans = spans_in(done.stdout)
        return output, done.stderr, sorted(spans, key=lambda span: span["start_time"])

    return run


def tree(spans: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Return each span's name and its parent's."""
    names = {span["context"]["span_id"]: span["name"] for span in spans}
    return [(span["name"], names.get(span["parent_id"])) for span in spans]


def test_an_unmodified_application_is_traced(
    zero_code: Callable[..., Any], app: Path, provider_server: ProviderServer
) -> None:
    output, errors, spans = zero_code(sys.executable, str(app))
    assert output == ANSWERS
    assert "Traceback" not in errors
    assert tree(spans) == [
        ("modelforge.get_llm", None),
        (MODEL_SPAN, None),
        ("POST", MODEL_SPAN),
        (MODEL_SPAN, None),
        ("POST", MODEL_SPAN),
    ]
    get = spans[0]["context"]
    for span in (spans[1], spans[3]):
        assert [link["context"]["span_id"] for link in span["links"]] == [get["span_id"]]
    assert spans[1]["attributes"]["server.port"] == provider_server.port
    assert spans[1]["attributes"]["gen_ai.usage.input_tokens"] == 11


def test_modelforge_is_not_imported_in_a_program_that_does_not_use_it(
    zero_code: Callable[..., Any], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nprint([n for n in sys.modules if n.partition('.')[0] in ('modelforge', 'langchain_core')])\n"
        "from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor\n"
        "print(ModelForgeInstrumentor().is_instrumented_by_opentelemetry)\n"
    )
    assert zero_code(sys.executable, str(program)) == ("[]\nTrue\n", "", [])


def test_it_can_be_disabled_by_name(zero_code: Callable[..., Any], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor\n"
        "print(ModelForgeInstrumentor().is_instrumented_by_opentelemetry)\n"
    )
    off = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "modelforge"}
    assert zero_code(sys.executable, str(program), **off) == ("False\n", "", [])


def test_with_the_sdk_disabled_the_application_works_and_there_is_no_span(
    zero_code: Callable[..., Any], app: Path
) -> None:
    output, errors, spans = zero_code(sys.executable, str(app), OTEL_SDK_DISABLED="true")
    assert (output, spans) == (ANSWERS, [])
    assert "Traceback" not in errors


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
def test_modelforges_own_command_line_is_traced(
    zero_code: Callable[..., Any], model_config: dict[str, Any], stream: bool
) -> None:
    from modelforge.cli import cli

    if stream and "stream" not in {option.name for option in cli.commands["test"].params}:
        pytest.skip("ModelForge 2.0 has no --stream")
    write_config(model_config)
    command = ["modelforge", "test", "--prompt", "hi"]
    output, errors, spans = zero_code(*command, *(["--stream"] if stream else []))
    assert "Hello there friend" in output
    assert "Traceback" not in errors
    found = [edge for edge in tree(spans) if edge[0] != "GET"]
    assert found == [("modelforge.get_llm", None), (MODEL_SPAN, None), ("POST", MODEL_SPAN)]
    call = next(span for span in spans if span["name"] == MODEL_SPAN)
    assert call["attributes"]["modelforge.model"] == "gpt-4o-mini"
    assert call["attributes"]["modelforge.outcome"] == "completed"
    assert call["attributes"].get("gen_ai.request.stream", False) is stream
    assert call["status"] == {"status_code": "UNSET"}
    # The request to models.dev, which is unreachable.
    assert {parent for name, parent in tree(spans) if name == "GET"} <= {"modelforge.get_llm"}


def test_importing_every_public_name_works_without_langchain(python: Python) -> None:
    done = python(
        "-c",
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'langchain_core':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from importlib import util\n"
        "util.find_spec = lambda name, package=None: None\n"
        "from opentelemetry_instrumentation_modelforge import *\n"
        "print(ModelForgeInstrumentor.__name__, 'OpenTelemetryCallback' in globals())",
    )
    assert (done.stdout, done.stderr) == ("ModelForgeInstrumentor False\n", "")
