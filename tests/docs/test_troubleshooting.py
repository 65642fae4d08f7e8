# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The troubleshooting page: each symptom occurs, and disappears once the page's own remedy is applied."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback, doctor
from support import DOCS
from support.environment import lacking
from support.models import get_llm, write_config
from support.providers import unused_port
from support.telemetry import Telemetry, spans_in

PAGE = (DOCS / "troubleshooting.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
MODEL = "langchain.llm.invoke"

Instrument = Callable[..., Telemetry]
ZeroCode = Callable[..., CompletedProcess[str]]


def remedies(heading: str) -> list[str]:
    """Return the Python code of a section of the page."""
    return re.findall(r"```python\n(.*?)```", SECTIONS[heading], re.DOTALL)


def question(heading: str) -> str:
    """Return the program that a section's command line runs."""
    (program,) = re.findall(r"python -c '(.*?)'$", SECTIONS[heading], re.DOTALL | re.MULTILINE)
    return program


@pytest.fixture
def global_provider(tracer_provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tracer_provider` the global provider that the page's code finds."""
    monkeypatch.setattr(trace, "get_tracer", lambda name: tracer_provider.get_tracer(name))


@pytest.fixture
def zero_code(python: Callable[..., CompletedProcess[str]]) -> ZeroCode:
    """Run a command under `opentelemetry-instrument`, and print its spans on the console."""
    if reason := lacking(instrumentors=("modelforge",)):
        pytest.skip(reason)
    scripts = Path(sysconfig.get_path("scripts"))

    def run(*command: str, **environment: str) -> CompletedProcess[str]:
        return python(
            str(scripts / "opentelemetry-instrument"),
            *command,
            **{
                "OTEL_TRACES_EXPORTER": "console",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                **environment,
            },
        )

    return run


def attributes_of(telemetry: Telemetry) -> dict[str, Any]:
    """Return the attributes of the latest model span."""
    return dict([span for span in telemetry.spans() if span.name == MODEL][-1].attributes or {})


def parents(telemetry: Telemetry) -> list[tuple[str, str | None]]:
    """Return each span's name and its parent's."""
    names = {span.context.span_id: span.name for span in telemetry.spans()}
    return [(span.name, names.get(span.parent.span_id) if span.parent else None) for span in telemetry.spans()]


# --- No spans? ---

NO_SPANS = "No spans?"


def test_the_page_explains_what_the_doctor_reports() -> None:
    # test_doctor.py runs each of them in a process.
    source = " ".join(path.read_text() for path in Path(doctor.__file__).parent.glob("*.py"))
    said = re.findall(r"^\| [A-Za-z]* ?\| `([^`]+)` \|", SECTIONS[NO_SPANS], re.MULTILINE)
    assert len(said) == 15
    # The first is Python's own message. The name of the variable is in a constant.
    assert [text for text in said if text not in source] == ["No module named"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_spans_lost_in_transit_are_reported(zero_code: ZeroCode, protocol: str) -> None:
    program = "from opentelemetry.trace import get_tracer; get_tracer('app').start_span('lost').end()"
    done = zero_code(
        sys.executable,
        "-c",
        program,
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{unused_port()}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert "Failed to export" in done.stderr


def handlers(llm: Any, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    exec(remedies(NO_SPANS)[0], {"llm": llm})
    return capsys.readouterr().out


def test_a_models_callbacks_show_whether_it_is_traced(
    registry: Any, instrument: Instrument, capsys: pytest.CaptureFixture[str]
) -> None:
    early = get_llm(registry, "openai", "gpt-4o-mini")
    telemetry = instrument()
    early.invoke("Hi")
    assert MODEL not in {span.name for span in telemetry.spans()}
    assert handlers(early, capsys) == "[]\n"
    assert handlers(get_llm(registry, "openai", "gpt-4o-mini"), capsys) == "['OpenTelemetryCallback']\n"


def test_a_model_of_a_disabled_instrumentation_is_not_traced(
    registry: Any, instrument: Instrument, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_MODELFORGE_ENABLED", "false")
    instrument()
    assert ModelForgeInstrumentor().is_instrumented_by_opentelemetry
    assert handlers(get_llm(registry, "openai", "gpt-4o-mini"), capsys) == "[]\n"


# --- Two spans for a call? ---


def test_the_instrumentations_are_listed_by_the_name_that_disables_them(
    python: Callable[..., CompletedProcess[str]],
) -> None:
    done = python("-c", question("Two spans for a call?"))
    names = {point.name for point in metadata.entry_points(group="opentelemetry_instrumentor")}
    assert set(re.findall(r"EntryPoint\(name='(\w+)'", done.stdout)) == names


def test_an_additional_processor_exports_the_same_span_again(zero_code: ZeroCode) -> None:
    program = """
from opentelemetry import trace
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.get_tracer("app").start_span("call").end()
"""
    first, second = spans_in(zero_code(sys.executable, "-c", program).stdout)[1]
    assert first["context"] == second["context"]


# --- No cost? ---

COST = "gen_ai.usage.cost.amount"


def test_the_cost_of_a_model_listed_only_by_genai_prices_needs_the_extra(
    registry: Any, instrumented: Telemetry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("genai_prices", reason="genai-prices is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == "genai_prices"]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "genai_prices", None)
        exec(remedies("No cost?")[0], {"llm": get_llm(registry, "openai", "gpt-4o-mini")})
        # The provider reported tokens, so it is the price that is missing.
        assert "'input_tokens': 11" in capsys.readouterr().out
        assert COST not in attributes_of(instrumented)
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    assert attributes_of(instrumented)[COST] > 0


@pytest.mark.parametrize(("entry", "priced"), [({}, False), ({"api_model_name": "gpt-4o-mini"}, True)])
def test_an_alias_has_the_price_of_the_model_it_stands_for(
    model_config: dict[str, Any], redirected: None, instrument: Instrument, entry: dict[str, str], priced: bool
) -> None:
    pytest.importorskip("genai_prices", reason="genai-prices is not installed")
    from modelforge import ModelForgeRegistry

    model_config["providers"]["openai"]["models"]["our-best"] = entry
    write_config(model_config)
    telemetry = instrument()
    get_llm(ModelForgeRegistry(), "openai", "our-best").invoke("Hi")
    assert (COST in attributes_of(telemetry)) is priced


# --- No tokens in streams? ---

ESTIMATED = "modelforge.usage.estimated"


def test_a_stream_has_tokens_once_they_are_requested(registry: Any, instrumented: Telemetry) -> None:
    from langchain_core.prompts import ChatPromptTemplate

    llm = get_llm(registry, "openai", "gpt-4o-mini")
    in_the_call, for_the_model = remedies("No tokens in streams?")[0].split("\n\n")
    list(llm.stream("Hello"))
    assert attributes_of(instrumented)[ESTIMATED] is True
    assert "gen_ai.client.token.usage" not in instrumented.metrics()
    exec(in_the_call, {"llm": llm})
    exec(for_the_model, {"llm": llm})
    list(llm.stream("Hello"))
    list((ChatPromptTemplate.from_template("Hello") | llm).stream({}))
    for span in [span for span in instrumented.spans() if span.name == MODEL][1:]:
        assert ESTIMATED not in span.attributes
        assert span.attributes["gen_ai.usage.input_tokens"] == 11
        assert span.attributes["gen_ai.usage.output_tokens"] == 7
    assert [point.count for point in instrumented.metrics()["gen_ai.client.token.usage"]] == [3, 3]


# --- Spans in separate traces? ---

SEPARATE = "Spans in separate traces?"


def test_a_call_is_in_the_trace_of_the_current_span(
    registry: Any, instrumented: Telemetry, global_provider: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ask, around, _ = remedies(SEPARATE)
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    capsys.readouterr()
    exec(ask, {})
    exec(around, {"llm": llm})
    with instrumented.tracer.start_as_current_span("caller"):
        exec(ask, {})
    assert capsys.readouterr().out == "False\nTrue\n"
    assert parents(instrumented)[1:4] == [("answer", None), (MODEL, "answer"), ("POST", MODEL)]


def test_a_thread_has_the_context_passed_to_it(registry: Any, instrumented: Telemetry) -> None:
    llm = get_llm(registry, "openai", "gpt-4o-mini")

    async def in_executors() -> None:
        await asyncio.get_running_loop().run_in_executor(None, llm.invoke, "Hi")
        await asyncio.to_thread(llm.invoke, "Hi")

    with instrumented.tracer.start_as_current_span("caller"):
        thread = Thread(target=llm.invoke, args=("Hi",))
        thread.start()
        thread.join()
        exec(remedies(SEPARATE)[2], {"llm": llm})
        asyncio.run(in_executors())
        llm.batch(["Hi"])
    calls = [parent for name, parent in parents(instrumented) if name == MODEL]
    assert calls == [None, "caller", None, "caller", "caller"]


# --- HTTP spans beside the model span instead of under it? ---


def test_http_spans_are_under_the_model_span_once_modelforge_is_instrumented(
    registry: Any, instrument: Instrument, tracer_provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = instrument()
    ModelForgeInstrumentor().uninstrument()
    callback = OpenTelemetryCallback("openai", "gpt-4o-mini", tracer_provider=tracer_provider)
    with telemetry.tracer.start_as_current_span("caller"):
        get_llm(registry, "openai", "gpt-4o-mini", callbacks=[callback]).invoke("Hi")
    assert parents(telemetry) == [("caller", None), (MODEL, "caller"), ("POST", "caller")]

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracer_provider)
    exec(remedies("HTTP spans beside the model span instead of under it?")[0], {})
    with telemetry.tracer.start_as_current_span("caller"):
        get_llm(registry, "openai", "gpt-4o-mini", callbacks=[callback]).invoke("Hi")
    assert parents(telemetry)[3:] == [
        ("caller", None),
        ("modelforge.get_llm", "caller"),
        (MODEL, "caller"),
        ("POST", MODEL),
    ]


# --- No content? ---

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.mark.parametrize(
    ("value", "on_spans", "on_events"),
    [
        ("true", False, False),
        ("SPAN_ONLY", True, False),
        ("EVENT_ONLY", False, True),
        ("SPAN_AND_EVENT", True, True),
    ],
)
def test_content_is_recorded_where_the_variable_selects(
    registry: Any,
    instrument: Instrument,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str,
    on_spans: bool,
    on_events: bool,
) -> None:
    monkeypatch.setenv(CAPTURE, value)
    telemetry = instrument()
    # A value set after instrumenting has no effect.
    monkeypatch.setenv(CAPTURE, "SPAN_AND_EVENT")
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    call = telemetry.span(MODEL).attributes or {}
    assert ("gen_ai.input.messages" in call) is on_spans
    assert bool(telemetry.logs()) is on_events
    assert (f"{CAPTURE}='true' is ignored: expected one of" in caplog.text) is (value == "true")


# --- "Failed to detach context"? ---


def test_a_generator_closed_where_it_is_used_detaches_its_context(
    registry: Any, instrumented: Telemetry, global_provider: None, caplog: pytest.LogCaptureFixture
) -> None:
    names: dict[str, Any] = {"llm": get_llm(registry, "openai", "gpt-4o-mini")}
    exec(remedies('"Failed to detach context"?')[0], names)

    async def left_open() -> None:
        words = names["answer"]("Hi")
        assert await anext(words) is not None

    async def use(first_word: Callable[[], Any]) -> None:
        await first_word()
        await asyncio.get_running_loop().shutdown_asyncgens()

    asyncio.run(use(left_open))
    assert "Failed to detach context" in caplog.messages
    caplog.clear()
    asyncio.run(use(lambda: names["first_word"]("Hi")))
    assert caplog.messages == []


# --- Nothing from forked workers? ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_that_flushes_loses_no_span(zero_code: ZeroCode, model_config: dict[str, Any], tmp_path: Path) -> None:
    write_config(model_config)
    program = tmp_path / "forks.py"
    program.write_text(
        "import logging, multiprocessing\n"
        "from modelforge import ModelForgeRegistry\n"
        "logging.disable(logging.INFO)\n"
        'llm = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini")\n'
        + remedies("Nothing from forked workers?")[0]
        + "for target in (llm.bind(max_tokens=1).invoke, work):\n"
        '    process = multiprocessing.get_context("fork").Process(target=target, args=("Hi",))\n'
        "    process.start()\n"
        "    process.join()\n"
    )
    done = zero_code(sys.executable, "-W", "ignore", str(program), OTEL_BSP_SCHEDULE_DELAY="600000")
    calls = [span for span in spans_in(done.stdout)[1] if span["name"] == MODEL]
    assert [span["attributes"].get("gen_ai.request.max_tokens") for span in calls] == [None], done.stderr


# --- A WARNING from opentelemetry_instrumentation_modelforge? ---

WARNINGS = "A WARNING from opentelemetry_instrumentation_modelforge?"


def test_later_faults_are_logged_at_debug_level(
    registry: Any, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("opentelemetry_instrumentation_modelforge")

    def hook(*_: object) -> None:
        raise RuntimeError("a hook of the user's")

    instrument(request_hook=hook)
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    level = logger.level
    try:
        llm.invoke("Hi")
        llm.invoke("Hi")
        exec(remedies(WARNINGS)[0], {})
        llm.invoke("Hi")
    finally:
        logger.setLevel(level)
    faults = [record for record in caplog.records if record.name.startswith(logger.name)]
    assert [record.levelname for record in faults][-1] == "DEBUG"
    assert all(
        re.fullmatch("Telemetry fault while .+; the application is not affected", f.getMessage().splitlines()[0])
        for f in faults
    )
    # The type and the stack identify the hook's fault, and its message may quote the prompt.
    assert faults[-1].getMessage().endswith("RuntimeError")
    assert "in hook" in faults[-1].getMessage()


def test_options_of_a_second_instrument_call_have_no_effect(zero_code: ZeroCode) -> None:
    program = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
ModelForgeInstrumentor().instrument(span_names="semconv")
"""
    logged = zero_code(sys.executable, "-c", program).stderr.splitlines()
    assert logged == [
        "Overriding of current TracerProvider is not allowed",
        "Attempting to instrument while already instrumented",
    ]
    assert all(f"`{message}`" in SECTIONS[WARNINGS] for message in logged)
