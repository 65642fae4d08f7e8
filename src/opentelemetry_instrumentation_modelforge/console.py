# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Span exporter that prints each finished trace as a tree.

Without changes to the application::

    opentelemetry-instrument --traces_exporter modelforge python app.py

In code:

.. code-block:: python

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry_instrumentation_modelforge.console import ConsoleTreeSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleTreeSpanExporter()))

This module needs the OpenTelemetry SDK, and nothing imports it but the application or the SDK.
"""

import os
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.semconv.attributes import error_attributes, exception_attributes
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from .span_tree import WIDTH, SpanSummary, children_by_parent, descendants, format_trees, in_encoding, span_details

# The longest text kept of a span's name or of one of its details, in characters.
_LONGEST_TEXT: Final = 200


class ConsoleTreeSpanExporter(SpanExporter):
    """A span exporter that prints each trace as a tree when its local root ends.

    The local root is a span without a parent, or with a parent in another process. A span that ends after its local
    root is printed later, under a line with its trace and its parent. :meth:`force_flush` and :meth:`shutdown` print
    the spans whose parents have not ended.

    Only known attributes of a span are printed: HTTP status and URL (without user information, query and fragment),
    ``error.type``, and the model, tokens, cost and finish reasons of a model call. Messages are never printed.

    If the stream is closed or fails, the output is lost and :meth:`export` returns ``FAILURE``. Characters that the
    stream's encoding lacks are replaced by ASCII ones.

    :param stream: where to print; by default ``sys.stderr``, as it is at the time of printing.
    :param color: whether failed spans are red. By default they are if the stream is a terminal; a non-empty
        ``NO_COLOR`` disables this and, without it, a non-empty ``FORCE_COLOR`` enables it.
    :param width: columns of a line. By default ``COLUMNS``, else the terminal's, else 100.
    :param max_rows: spans shown of one tree, at least 1. In a longer tree, the first children of each span are shown,
        and the others are counted.
    :param max_spans: spans kept until their local root ends, at least 1. When there are more, the oldest trace is
        printed as incomplete. The names of as many printed spans are kept for children that end later.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        color: bool | None = None,
        width: int | None = None,
        max_rows: int = 100,
        max_spans: int = 10_000,
    ) -> None:
        self._stream = stream
        self._color = color
        self._width = width
        self._max_rows = max_rows
        self._max_spans = max_spans
        self._reset()
        if hasattr(os, "register_at_fork"):
            reset = weakref.WeakMethod(self._reset)
            os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        """Discard every span. A forked child must not print its parent's, nor wait for a lock held by its threads."""
        self._lock = threading.RLock()
        self._is_printing = False
        self._arrived: deque[SpanSummary] = deque()
        self._waiting: dict[str, dict[str, SpanSummary]] = {}
        self._waiting_count = 0
        self._printed_names: OrderedDict[tuple[str, str], str] = OrderedDict()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Print the trees that `spans` complete, and keep the other spans."""
        self._arrived.extend(map(summarize, spans))
        return SpanExportResult.SUCCESS if self._print_arrived() else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Print all spans that are kept, and return whether the stream accepted them."""
        return self._print_arrived(incomplete=True)

    def shutdown(self) -> None:
        """Print all spans that are kept."""
        self._print_arrived(incomplete=True)

    def _print_arrived(self, *, incomplete: bool = False) -> bool:
        written = True
        with self._lock:
            if self._is_printing:
                # The garbage collector ended a span while this thread was printing: the loop below prints it.
                return True
            self._is_printing = True
            try:
                while self._arrived or incomplete:
                    blocks = list(self._finished())
                    while self._waiting and (incomplete or self._waiting_count > self._max_spans):
                        blocks.append(self._unfinished())
                    incomplete = False
                    written = self._write(blocks) and written
            finally:
                self._is_printing = False
        return written

    def _finished(self) -> Iterator[tuple[str, list[SpanSummary]]]:
        """Yield a heading and the spans of each tree that the arrived spans complete."""
        batch = [self._arrived.popleft() for _ in range(len(self._arrived))]
        for span in batch:
            trace = self._waiting.setdefault(span.trace_id, {})
            self._waiting_count += span.span_id not in trace
            trace[span.span_id] = span
        # Roots that have the same parent are printed together.
        headings: dict[tuple[str, str | None], str] = {}
        for span in batch:
            if span.parent_id is None:
                heading = ""
            elif (name := self._printed_names.get((span.trace_id, span.parent_id))) is not None:
                heading = f'Trace {span.trace_id}, late under "{name}" ({span.parent_id}):'
            elif span.has_remote_parent and span.parent_id not in self._waiting[span.trace_id]:
                heading = f"Trace {span.trace_id}, under remote span {span.parent_id}:"
            else:
                continue
            headings[span.trace_id, span.parent_id] = heading
        for (trace_id, parent_id), heading in headings.items():
            trace = self._waiting.get(trace_id, {})
            roots = [span for span in trace.values() if span.parent_id == parent_id]
            yield heading, self._take(trace_id, descendants(roots, children_by_parent(trace.values())))

    def _unfinished(self) -> tuple[str, list[SpanSummary]]:
        """Return a heading and the waiting spans of the oldest trace."""
        trace_id, trace = next(iter(self._waiting.items()))
        heading = f"Trace {trace_id}, incomplete because parent spans have not ended:"
        return heading, self._take(trace_id, list(trace.values()))

    def _take(self, trace_id: str, spans: list[SpanSummary]) -> list[SpanSummary]:
        """Remove `spans` from the waiting ones, and return them."""
        for span in spans:
            del self._waiting[trace_id][span.span_id]
            self._printed_names[trace_id, span.span_id] = span.name
        self._waiting_count -= len(spans)
        if not self._waiting.get(trace_id, True):
            del self._waiting[trace_id]
        while len(self._printed_names) > self._max_spans:
            self._printed_names.popitem(last=False)
        return spans

    def _write(self, blocks: Sequence[tuple[str, Sequence[SpanSummary]]]) -> bool:
        """Print blocks, each after an empty line, and return whether the stream accepted them."""
        if not blocks:
            return True
        # Typed as never None, but Python has no standard streams when it runs without a console.
        stream: TextIO | None = self._stream or sys.stderr
        if stream is None:
            return False
        try:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            color = has_color(stream) if self._color is None else self._color
            width = self._width or columns(stream)
            for heading, spans in blocks:
                trees = format_trees(spans, width=width, color=color, encoding=encoding, max_rows=self._max_rows)
                lines = [in_encoding(heading, encoding), *trees] if heading else trees
                stream.write("\n" + "".join(f"{line}\n" for line in lines))
            stream.flush()
        except (OSError, ValueError):
            # A broken pipe, or a closed file.
            return False
        return True


def summarize(span: ReadableSpan) -> SpanSummary:
    """Return the parts of a span that are printed, without a reference to the span."""
    context, parent = span.get_span_context(), span.parent
    attributes: dict[str, object] = {}
    for event in span.events:
        if exception := (event.attributes or {}).get(exception_attributes.EXCEPTION_TYPE):
            attributes[error_attributes.ERROR_TYPE] = exception
    attributes.update(span.attributes or {})
    failed = span.status.status_code is StatusCode.ERROR
    start_ns = span.start_time or 0
    return SpanSummary(
        name=_printable(span.name),
        trace_id=format_trace_id(context.trace_id) if context else "",
        span_id=format_span_id(context.span_id) if context else "",
        parent_id=format_span_id(parent.span_id) if parent else None,
        has_remote_parent=parent is not None and parent.is_remote,
        start_ns=start_ns,
        end_ns=span.end_time or start_ns,
        details=tuple(map(_printable, span_details(attributes, failed=failed))),
        links=tuple(format_span_id(link.context.span_id) for link in span.links),
        failed=failed,
    )


def _printable(text: str) -> str:
    """Return a text on one line and without control characters, which a terminal would interpret."""
    text = text[:_LONGEST_TEXT]
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def columns(stream: TextIO) -> int:
    """Return the columns of a line: the value of ``COLUMNS``, else the terminal's, else 100."""
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and int(named) > 0:
        return int(named)
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDTH
    except (AttributeError, OSError, ValueError):
        return WIDTH


def has_color(stream: TextIO) -> bool:
    """Return whether to color a stream, by the rules of https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (os.environ.get("TERM") != "dumb" and stream.isatty())
