"""Spans and metrics as text: a tree with what matters of each span beside it, and a line for each metric."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH = 100

_SEPARATOR = " · "
_GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Span:
    """What the tree shows of a span."""

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


@dataclass(frozen=True, kw_only=True)
class _Row:
    label: str
    below: str
    """The branches that pass its further lines, for details that don't fit in the first."""
    details: Sequence[str]
    duration: str
    failed: bool


def span_details(span: Span) -> Iterator[str]:
    """Yield what matters of an HTTP request, a `get_llm` or a model call."""
    attributes = span.attributes
    if span.failed:
        yield f"failed: {attributes['error.type']}" if "error.type" in attributes else "failed"
    # The HTTP instrumentations write the stable names only when they are told to.
    for names in (("http.response.status_code", "http.status_code"), ("url.full", "http.url")):
        if (value := next((attributes[name] for name in names if name in attributes), None)) is not None:
            yield str(value)
    if "gen_ai.operation.name" in attributes:
        yield from _call(attributes)
    else:
        names = ("modelforge.provider", "modelforge.model", "modelforge.llm_type")
        yield from (str(attributes[name]) for name in names if name in attributes)


def format_trees(
    spans: Sequence[Span],
    width: int = WIDTH,
    mark_failed: Callable[[str], str] = str,
    details: Callable[[Span], Iterable[str]] = span_details,
) -> list[str]:
    """Return the lines of a tree for each span whose parent is not among `spans`, in the order they started.

    :param mark_failed: what makes the line of a failed span stand out.
    :param details: what is shown beside a span.
    """
    linked = {span_id for span in spans for span_id in span.links}
    ordered = sorted(spans, key=lambda span: span.start_ns)
    references = {
        span.span_id: f"[{number}]"
        for number, span in enumerate((span for span in ordered if span.span_id in linked), start=1)
    }
    rows = list(_rows(ordered, references, details))
    if not rows:
        return []
    label_width = max(len(row.label) for row in rows)
    duration_width = max(len(row.duration) for row in rows)
    details_width = min(
        max(len(_SEPARATOR.join(row.details)) for row in rows),
        max(width - label_width - duration_width - 2 * len(_GAP), 20),
    )
    lines: list[str] = []
    for row in rows:
        first, *others = _wrapped(row.details, details_width) or [""]
        line = f"{row.label:<{label_width}}{_GAP}{first:<{details_width}}{_GAP}{row.duration:>{duration_width}}"
        lines.append(mark_failed(line) if row.failed else line)
        lines += [f"{row.below:<{label_width}}{_GAP}{other}" for other in others]
    return lines


def format_metrics(metrics: Sequence[Metric]) -> list[str]:
    """Return a line for each metric, in the order of their names."""
    name_width = max((len(metric.name) for metric in metrics), default=0)
    return [
        f"{metric.name:<{name_width}}{_GAP}{_summary(metric)}"
        for metric in sorted(metrics, key=lambda metric: metric.name)
    ]


def _rows(
    spans: Sequence[Span], references: Mapping[str, str], details: Callable[[Span], Iterable[str]]
) -> Iterator[_Row]:
    ids = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in ids else None, []).append(span)

    def visit(span: Span, branch: str, below: str) -> Iterator[_Row]:
        inner = children.get(span.span_id, [])
        yield _Row(
            label=" ".join((branch + span.name, *_references(span, references))),
            below=below + ("│" if inner else ""),
            details=list(details(span)),
            duration=format_duration((span.end_ns - span.start_ns) / 1e9),
            failed=span.failed,
        )
        for child in inner:
            last = child is inner[-1]
            yield from visit(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    for root in children.get(None, ()):
        yield from visit(root, "", "")


def _references(span: Span, references: Mapping[str, str]) -> Iterator[str]:
    """Yield the mark of a span that others are linked to, and the marks of those it is linked to."""
    if span.span_id in references:
        yield references[span.span_id]
    for span_id in span.links:
        yield f"→ {references.get(span_id, f'[{span_id}]')}"


def _call(attributes: Mapping[str, object]) -> Iterator[str]:
    if (model := attributes.get("gen_ai.request.model")) is not None:
        yield str(model)
    tokens = [attributes.get(f"gen_ai.usage.{direction}_tokens") for direction in ("input", "output")]
    if any(count is not None for count in tokens):
        read, written = ("?" if count is None else f"{count:,}" for count in tokens)
        yield f"{read} → {written} tokens"
    if isinstance(amount := attributes.get("gen_ai.usage.cost.amount"), float):
        yield format_dollars(amount)
    if isinstance(seconds := attributes.get("gen_ai.response.time_to_first_chunk"), float):
        yield f"first chunk {format_duration(seconds)}"
    reasons = attributes.get("gen_ai.response.finish_reasons")
    if isinstance(reasons, tuple) and set(reasons) != {"stop"}:
        yield ", ".join(map(str, reasons))


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in (part if len(part) <= width else f"{part[: width - 1]}…" for part in parts):
        if lines and len(lines[-1]) + len(_SEPARATOR) + len(part) <= width:
            lines[-1] += _SEPARATOR + part
        else:
            lines.append(part)
    return lines


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


def format_duration(seconds: float) -> str:
    """Return a duration in the unit that suits it, with about three digits."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def format_dollars(amount: float) -> str:
    """Return an amount with cents, or with as many decimals as show two digits of it."""
    decimals = max(2, 1 - math.floor(math.log10(amount))) if amount > 0 else 2
    return f"${amount:.{decimals}f}"
