# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The exporter that prints traces as trees."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from examples._shared.local import environment, serving, write_config
from examples._shared.server import ChatServer
from opentelemetry_instrumentation_modelforge.console import ConsoleTreeSpanExporter, columns, has_color, summarize
from opentelemetry_instrumentation_modelforge.span_tree import span_details
from support import DOCS, EXAMPLES
from support.check_examples import difference
from support.examples import missing
from support.trees import compact

TRACE = f"{1:032x}"
MILLISECOND = 1_000_000


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def context(span_id: int, trace_id: int = 1, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, remote, TraceFlags(TraceFlags.SAMPLED))


def span(
    name: str,
    span_id: int,
    parent_id: int | None = None,
    *,
    trace_id: int = 1,
    remote: bool = False,
    failed: bool = False,
    links: Sequence[int] = (),
    exceptions: Sequence[str] = (),
    attributes: dict[str, Any] | None = None,
) -> ReadableSpan:
    """Return a span of 2 ms. The higher its id, the later it starts."""
    return ReadableSpan(
        name,
        context=context(span_id, trace_id),
        parent=None if parent_id is None else context(parent_id, trace_id, remote),
        attributes=attributes,
        events=[Event("exception", {"exception.type": name, "exception.message": "secret"}) for name in exceptions],
        links=[Link(context(link)) for link in links],
        status=Status(StatusCode.ERROR, "secret") if failed else Status(),
        start_time=span_id * MILLISECOND,
        end_time=(span_id + 2) * MILLISECOND,
    )


class Console:
    """An exporter and the stream it prints to."""

    def __init__(self, stream: Any = None, **options: Any) -> None:
        self.stream = stream or io.StringIO()
        self.exporter = ConsoleTreeSpanExporter(stream=self.stream, **options)

    def export(self, *spans: ReadableSpan) -> list[str]:
        """Export one batch, and return the lines that it adds."""
        start = len(self.stream.getvalue())
        assert self.exporter.export(spans) is SpanExportResult.SUCCESS
        return compact(self.stream.getvalue()[start:])

    def shut_down(self) -> list[str]:
        start = len(self.stream.getvalue())
        self.exporter.shutdown()
        return compact(self.stream.getvalue()[start:])


def waiting(exporter: ConsoleTreeSpanExporter) -> int:
    """Return the number of spans that an exporter keeps."""
    kept = sum(map(len, exporter._waiting.values()))
    assert kept == exporter._waiting_count
    return kept


# --- When a trace is printed ---


def test_trace_is_printed_when_its_root_ends() -> None:
    console = Console()
    assert console.export(span("inner", 3, 2), span("call", 2, 1)) == []
    assert console.export(span("other", 4, 1)) == []
    assert console.export(span("request", 1)) == [
        "",
        "request  2.0 ms",
        "├─ call  2.0 ms",
        "│  └─ inner  2.0 ms",
        "└─ other  2.0 ms",
    ]
    assert console.shut_down() == []


def test_concurrent_traces_are_printed_separately() -> None:
    console = Console()
    lines = console.export(
        span("call a", 2, 1, trace_id=1), span("call b", 2, 1, trace_id=2), span("b", 1, trace_id=2), span("a", 1)
    )
    assert lines == ["", "b  2.0 ms", "└─ call b  2.0 ms", "", "a  2.0 ms", "└─ call a  2.0 ms"]


def test_root_with_a_remote_parent_is_printed_below_a_line_that_names_it() -> None:
    console = Console()
    assert console.export(span("call", 3, 2)) == []
    assert console.export(span("request", 2, 9, remote=True)) == [
        "",
        f"Trace {TRACE}, under remote span {9:016x}:",
        "request  2.0 ms",
        "└─ call  2.0 ms",
    ]


def test_remote_parent_that_ends_in_the_same_process_is_a_parent_like_any_other() -> None:
    lines = Console().export(span("server", 3, 2, remote=True), span("client", 2, 1), span("request", 1))
    assert lines == ["", "request  2.0 ms", "└─ client  2.0 ms", "   └─ server  2.0 ms"]


def test_late_spans_are_printed_below_a_line_that_names_their_parent() -> None:
    console = Console()
    console.export(span("request", 1))
    assert console.export(span("query", 3, 2)) == []
    assert console.export(span("background task", 2, 1)) == [
        "",
        f'Trace {TRACE}, late under "request" ({1:016x}):',
        "background task  2.0 ms",
        "└─ query  2.0 ms",
    ]
    assert console.export(span("later", 4, 3)) == [
        "",
        f'Trace {TRACE}, late under "query" ({3:016x}):',
        "later  2.0 ms",
    ]


def test_spans_without_their_root_are_printed_at_shutdown() -> None:
    console = Console()
    console.export(span("a", 3, 2), span("b", 4, 3), span("c", 5, 2))
    assert console.shut_down() == [
        "",
        f"Trace {TRACE}, incomplete because parent spans have not ended:",
        "a  2.0 ms",
        "└─ b  2.0 ms",
        "c  2.0 ms",
    ]
    assert console.shut_down() == []


def test_force_flush_prints_incomplete_traces_and_the_root_follows() -> None:
    console = Console()
    console.export(span("call", 2, 1))
    assert console.exporter.force_flush() is True
    assert "incomplete" in console.stream.getvalue()
    assert console.export(span("request", 1)) == ["", "request  2.0 ms"]
    assert console.export(span("late", 3, 2))[1] == f'Trace {TRACE}, late under "call" ({2:016x}):'


def test_spans_that_are_each_others_parents_are_not_kept() -> None:
    console = Console()
    console.export(span("a", 1, 2), span("b", 2, 1), span("c", 3, 3))
    console.shut_down()
    assert waiting(console.exporter) == 0


# --- Order of arrival ---


@st.composite
def traces(draw: st.DrawFn) -> tuple[list[ReadableSpan], list[int]]:
    """Return a trace whose first span is its root, and the sizes of the batches in which it arrives."""
    size = draw(st.integers(1, 12))
    parents = [draw(st.integers(1, number)) for number in range(1, size)]
    spans = [span("span 1", 1), *(span(f"span {i}", i, parent) for i, parent in enumerate(parents, start=2))]
    return spans, draw(st.lists(st.integers(1, size), max_size=size))


def printed(spans: Sequence[ReadableSpan], sizes: Sequence[int] = ()) -> list[str]:
    console = Console()
    rest = list(spans)
    for size in sizes:
        console.export(*rest[:size])
        rest = rest[size:]
    console.export(*rest)
    console.exporter.shutdown()
    assert waiting(console.exporter) == 0
    return console.stream.getvalue().splitlines()


@given(traces(), st.randoms(use_true_random=False))
def test_tree_does_not_depend_on_the_order_and_batches_in_which_spans_arrive(
    trace: tuple[list[ReadableSpan], list[int]], random: Any
) -> None:
    (root, *others), sizes = trace
    expected = printed([root, *others])
    assert len(expected) == 1 + len(others) + 1
    shuffled = random.sample(others, len(others))
    assert printed([*shuffled, root], sizes) == expected
    anywhere = random.sample([root, *others], len(others) + 1)
    assert printed(anywhere) == expected
    lines = printed(anywhere, sizes)
    names = Counter(" ".join(line.strip("├└─│ ").split()[:2]) for line in lines if line and "Trace" not in line)
    assert names == Counter(span.name for span in (root, *others))


# --- Memory ---


def test_trace_that_never_ends_is_printed_in_parts() -> None:
    console = Console(max_spans=100, max_rows=5)
    kept: list[int] = []
    for number in range(2, 1002):
        console.export(span("tick", number, 1))
        kept.append(waiting(console.exporter))
    assert max(kept) == 100
    assert len(console.exporter._printed_names) <= 100
    lines = console.stream.getvalue().splitlines()
    assert lines[:7] == [
        "",
        f"Trace {TRACE}, incomplete because parent spans have not ended:",
        *4 * ["tick         2.0 ms"],
        "… 97 more",
    ]
    assert lines.count(lines[1]) == 1000 // 101


def test_oldest_traces_are_printed_when_too_many_never_end() -> None:
    console = Console(max_spans=10)
    for number in range(1, 11):
        assert console.export(span(f"call {number}", 2, 1, trace_id=number)) == []
    assert console.export(span("call 11", 2, 1, trace_id=11)) == [
        "",
        f"Trace {TRACE}, incomplete because parent spans have not ended:",
        "call 1  2.0 ms",
    ]
    assert waiting(console.exporter) == 10


def test_finished_traces_leave_only_a_bounded_number_of_names() -> None:
    console = Console(max_spans=50)
    for number in range(1, 201):
        console.export(span("call", 2, 1, trace_id=number), span("request", 1, trace_id=number))
    assert waiting(console.exporter) == 0
    assert console.exporter._waiting == {}
    assert len(console.exporter._printed_names) == 50


def test_long_texts_are_truncated() -> None:
    attributes = {"http.url": "http://host/" + 10_000 * "x", "gen_ai.input.messages": 10_000 * "x"}
    summary = summarize(span(10_000 * "x", 1, attributes=attributes))
    assert len(summary.name) == 200
    assert [len(text) for text in summary.details] == [200]


# --- What is shown of a span ---


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, []),
        ({"http.response.status_code": 200, "url.full": "http://h/x"}, ["200", "http://h/x"]),
        ({"http.status_code": 503, "http.url": "http://h/x"}, ["503", "http://h/x"]),
        ({"http.status_code": 0, "http.response.status_code": 1}, ["1"]),
        ({"url.full": "https://user:p@ss@host:1/a/b@c?key=AIza#frag"}, ["https://host:1/a/b@c"]),
        ({"url.full": "https://host?mail=a@b"}, ["https://host"]),
        ({"url.full": "https://host/a?x=\n1"}, ["https://host/a"]),
        (
            {"modelforge.provider": "openai", "modelforge.model": "fast", "modelforge.llm_type": "openai_compatible"},
            ["openai", "fast", "openai_compatible"],
        ),
        (
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "gpt",
                "gen_ai.usage.input_tokens": 1234,
                "gen_ai.usage.cost.amount": 0.5,
                "gen_ai.response.time_to_first_chunk": 0.25,
                "gen_ai.response.finish_reasons": ("length", "stop"),
                "modelforge.provider": "openai",
            },
            ["gpt", "1,234 → ? tokens", "$0.50", "first chunk 250 ms", "length, stop"],
        ),
        ({"gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ("stop",)}, []),
        ({"gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ()}, []),
        (
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.usage.input_tokens": "many",
                "gen_ai.usage.cost.amount": float("nan"),
                "gen_ai.response.time_to_first_chunk": -1.0,
                "gen_ai.response.finish_reasons": 7,
            },
            [],
        ),
        ({"gen_ai.input.messages": "secret", "db.statement": "secret", "http.target": "/?secret"}, []),
    ],
)
def test_details(attributes: dict[str, Any], expected: list[str]) -> None:
    assert list(span_details(attributes)) == expected


def test_failed_spans_name_their_error_and_not_its_message() -> None:
    spans = [
        span("request", 1, failed=True, exceptions=["KeyError", "ValueError"]),
        span("call", 2, 1, failed=True, attributes={"error.type": "openai.APIError"}, exceptions=["KeyError"]),
        span("task", 3, 1, failed=True),
        span("caught", 4, 1, exceptions=["KeyError"]),
    ]
    assert Console().export(*spans) == [
        "",
        "request  failed: ValueError  2.0 ms",
        "├─ call  failed: openai.APIError  2.0 ms",
        "├─ task  failed  2.0 ms",
        "└─ caught  2.0 ms",
    ]


def test_control_characters_do_not_reach_the_terminal() -> None:
    lines = Console().export(span("a\x1b[2Jb\nc\u202e\ud800", 1, attributes={"http.url": "http://h/\x07\t."}))
    assert lines == ["", "a\ufffd[2Jb c\ufffd\ufffd  http://h/\ufffd .  2.0 ms"]


def test_span_that_others_are_linked_to_is_numbered() -> None:
    lines = Console().export(
        span("request", 1),
        span("first", 2, 1),
        span("second", 3, 1),
        span("call", 4, 1, links=[3]),
        span("call", 5, 1, links=[3, 2, 99]),
    )
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "request",
        "├─ first [1]",
        "├─ second [2]",
        "├─ call → [2]",
        "└─ call → [2] → [1]",
    ]


# --- The stream ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Failing(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


RED = "\n\x1b[31mcall  failed  2.0 ms\x1b[0m\n"
PLAIN = "\ncall  failed  2.0 ms\n"


@pytest.mark.parametrize(
    ("stream", "variables", "color", "expected"),
    [
        (Terminal, {}, None, RED),
        (io.StringIO, {}, None, PLAIN),
        (Terminal, {"NO_COLOR": "1"}, None, PLAIN),
        (Terminal, {"NO_COLOR": ""}, None, RED),
        (Terminal, {"TERM": "dumb"}, None, PLAIN),
        (io.StringIO, {"FORCE_COLOR": "1"}, None, RED),
        (io.StringIO, {"FORCE_COLOR": ""}, None, PLAIN),
        (Terminal, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, None, PLAIN),
        (Terminal, {}, False, PLAIN),
        (io.StringIO, {"NO_COLOR": "1"}, True, RED),
    ],
)
def test_failed_spans_are_red_if_colors_are_enabled(
    stream: Callable[[], io.StringIO],
    variables: dict[str, str],
    color: bool | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console = Console(stream(), color=color)
    console.export(span("call", 1, failed=True))
    assert console.stream.getvalue() == expected


def test_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    termios = pytest.importorskip("termios")
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as stream:
        termios.tcsetwinsize(stream, (24, 71))
        assert columns(stream) == 71
        assert has_color(stream) is True
        # A serial console has no size.
        termios.tcsetwinsize(stream, (0, 0))
        assert columns(stream) == 100
        monkeypatch.setenv("COLUMNS", "132")
        assert columns(stream) == 132
    assert columns(io.StringIO()) == 132
    for unusable in ("", "0", "-5", "wide"):
        monkeypatch.setenv("COLUMNS", unusable)
        assert columns(io.StringIO()) == 100


def test_the_keyword_sets_the_width_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console = Console(width=40)
    console.export(span("call", 1, attributes={"http.url": "http://" + 60 * "x"}))
    assert console.stream.getvalue() == "\ncall  http://xxxxxxxxxxxxxxxxxx…  2.0 ms\n"


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    exporter = ConsoleTreeSpanExporter()
    exporter.export([span("call", 1)])
    assert capsys.readouterr() == ("", "\ncall    2.0 ms\n")


def test_failing_stream_does_not_affect_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (Failing(), closed):
        exporter = ConsoleTreeSpanExporter(stream=stream)
        assert exporter.export([span("call", 2, 1)]) is SpanExportResult.SUCCESS
        assert exporter.export([span("request", 1)]) is SpanExportResult.FAILURE
        assert waiting(exporter) == 0
        exporter.export([span("call", 3, 9)])
        assert exporter.force_flush() is False
        exporter.shutdown()
    monkeypatch.setattr(sys, "stderr", None)
    exporter = ConsoleTreeSpanExporter()
    assert exporter.export([span("request", 1)]) is SpanExportResult.FAILURE
    assert exporter.export([span("request", 2, 9)]) is SpanExportResult.SUCCESS


def test_stream_without_an_encoding_receives_the_characters_unchanged() -> None:
    class Stream:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    stream: Any = Stream()
    ConsoleTreeSpanExporter(stream=stream).export([span("a", 1), span("b", 2, 1)])
    assert stream.text == "\na       2.0 ms\n└─ b    2.0 ms\n"


def test_stream_receives_only_characters_of_its_encoding() -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    ConsoleTreeSpanExporter(stream=stream).export([span("é", 1), span("b", 2, 1), span("c", 3, 9, remote=True)])
    assert buffer.getvalue().splitlines()[:3] == [b"", rb"\xe9    2.0 ms", b"`- b    2.0 ms"]


# --- Threads and processes ---


def test_traces_of_concurrent_threads_are_not_interleaved() -> None:
    console = Console()

    def serve(trace_id: int) -> None:
        for number in range(4, 1, -1):
            console.exporter.export([span(f"call {number}", number, 1, trace_id=trace_id)])
        console.exporter.export([span(f"request {trace_id}", 1, trace_id=trace_id)])

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    blocks = console.stream.getvalue().strip("\n").split("\n\n")
    shapes = {tuple(line.rsplit("  ", 1)[0].rstrip() for line in block.splitlines()) for block in blocks}
    assert shapes == {(f"request {i}", "├─ call 2", "├─ call 3", "└─ call 4") for i in range(1, 21)}


def test_span_that_ends_while_its_thread_prints_is_printed_next() -> None:
    class Reentrant(io.StringIO):
        def write(self, text: str) -> int:
            if not self.tell():
                super().write(text)
                # This happens if the collector closes a generator that holds a span open.
                exporter.export([span("collected", 7, trace_id=2)])
                return len(text)
            return super().write(text)

    stream = Reentrant()
    exporter = ConsoleTreeSpanExporter(stream=stream)
    exporter.export([span("request", 1)])
    assert compact(stream.getvalue()) == ["", "request  2.0 ms", "", "collected  2.0 ms"]


def test_forked_child_discards_the_spans_of_its_parent(python: Callable[..., Any]) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    script = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry_instrumentation_modelforge.console import ConsoleTreeSpanExporter

exporter = ConsoleTreeSpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("test")
with tracer.start_as_current_span("request"):
    tracer.start_span("call").end()
    with exporter._lock:
        child = os.fork()
        if child == 0:
            from opentelemetry.context import Context
            tracer.start_span("of the child", Context()).end()
            exporter.shutdown()
            os._exit(0)
    os.waitpid(child, 0)
"""
    # From 3.12 on, a fork warns while a thread of the SDK's resource detectors is still ending.
    result = python("-W", "ignore::DeprecationWarning", "-c", script)
    names = [line.split("  ")[0] for line in result.stderr.splitlines()]
    assert names == ["", "of the child", "", "request", "└─ call"]


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_works_with_the_processors_of_the_sdk(processor: Any) -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor(ConsoleTreeSpanExporter(stream=stream)))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("request"):
        with tracer.start_as_current_span("GET /weather"):
            tracer.start_span("run/tasks.look_up").end()
        open_span = tracer.start_span("never ends")
    tracer.start_span("call", set_span_in_context(open_span)).end()
    provider.shutdown()
    names = [re.sub(r"  +[\d.]+ ms$", "", line) for line in stream.getvalue().splitlines()]
    trace_id = f"{open_span.get_span_context().trace_id:032x}"
    assert names == [
        "",
        "request",
        "└─ GET /weather",
        "   └─ run/tasks.look_up",
        "",
        f"Trace {trace_id}, incomplete because parent spans have not ended:",
        "call",
    ]


def test_exporter_is_only_imported_when_it_is_chosen(python: Callable[..., Any]) -> None:
    (entry_point,) = entry_points(group="opentelemetry_traces_exporter", name="modelforge")
    assert entry_point.load() is ConsoleTreeSpanExporter
    script = """
import sys
import opentelemetry_instrumentation_modelforge
opentelemetry_instrumentation_modelforge.ModelForgeInstrumentor().instrument(skip_dep_check=True)
print([name for name in sys.modules if name.endswith((".console", ".span_tree")) and "modelforge" in name])
"""
    assert python("-c", script).stdout == "[]\n"


def test_application_prints_the_tree_that_the_documentation_shows(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    shutil.copy(EXAMPLES / "quickstart" / "app.py", tmp_path)
    command = "opentelemetry-instrument --traces_exporter modelforge --metrics_exporter none --logs_exporter none"
    page = DOCS / "console.md"
    assert f"$ {command} python app.py\n" in page.read_text(encoding="utf-8")
    with ChatServer() as models, serving(models):
        write_config(tmp_path, models.base_url, "gpt-4o-mini")
        variables = environment(str(tmp_path), "http://127.0.0.1:1", "no-key-needed", "quickstart")
        result = subprocess.run(
            [
                str(Path(sys.executable).parent / "opentelemetry-instrument"),
                *command.split()[1:],
                sys.executable,
                "app.py",
            ],
            cwd=tmp_path,
            # Times on a slow machine have more digits, and must not wrap a line that is not wrapped on the page.
            env={**variables, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore", "COLUMNS": "140"},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Dressing for Lisbon\nWhat should I wear in Lisbon today?\nLight clothes")
    assert difference(page, result.stderr) is None, result.stderr
    assert max(map(len, result.stderr.splitlines())) <= 100
    # Neither the prompt nor the answer is printed.
    assert "wear" not in result.stderr
    assert "Light clothes" not in result.stderr
