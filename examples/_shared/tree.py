# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Spans and metrics as text: the tree that the package's exporter prints, and a line for each metric."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry_instrumentation_modelforge import span_tree
from opentelemetry_instrumentation_modelforge.span_tree import format_dollars, format_duration

_GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Span:
    """The parts of a span that the tree shows."""

    name: str
    span_id: str
    parent_id: str | None = None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])
    links: Sequence[str] = ()
    """The ids of the spans it is linked to."""
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """The sum, and for a histogram the number, of the measurements that have the same attributes."""

    total: float
    count: int | None = None
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and its data points."""

    name: str
    unit: str
    points: Sequence[Point]


def span_details(span: Span) -> Iterator[str]:
    """Yield the details that the package's exporter prints beside a span."""
    return span_tree.span_details(span.attributes, failed=span.failed)


def format_trees(
    spans: Iterable[Span],
    details: Callable[[Span], Iterable[str]] = span_details,
    *,
    width: int = span_tree.WIDTH,
    color: bool = False,
    encoding: str = "utf-8",
) -> list[str]:
    """Return the lines of a tree for each span whose parent is not among `spans`.

    :param details: the texts shown beside a span.
    """
    summaries = [
        span_tree.SpanSummary(
            name=span.name,
            span_id=span.span_id,
            parent_id=span.parent_id,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            details=tuple(details(span)),
            links=span.links,
            failed=span.failed,
        )
        for span in spans
    ]
    return span_tree.format_trees(summaries, width=width, color=color, encoding=encoding)


def format_metrics(metrics: Sequence[Metric]) -> list[str]:
    """Return a line for each metric, in the order of their names."""
    name_width = max((len(metric.name) for metric in metrics), default=0)
    return [
        f"{metric.name:<{name_width}}{_GAP}{_summary(metric)}"
        for metric in sorted(metrics, key=lambda metric: metric.name)
    ]


def _summary(metric: Metric) -> str:
    if metric.unit == "{token}":
        counts: dict[str, float] = {}
        for point in metric.points:
            kind = str(point.attributes.get("gen_ai.token.type", "total"))
            counts[kind] = counts.get(kind, 0) + point.total
        return _GAP.join(f"{kind} {count:,.0f}" for kind, count in sorted(counts.items()))
    total = sum(point.total for point in metric.points)
    count = sum(point.count or 0 for point in metric.points)
    if metric.unit == "USD":
        return f"count {count:,}  sum {format_dollars(total)}"
    unit_seconds = {"s": 1, "ms": 1e-3}.get(metric.unit)
    if unit_seconds is not None and count:
        return f"count {count:,}  mean {format_duration(total / count * unit_seconds)}"
    return f"{total:,.0f}"
