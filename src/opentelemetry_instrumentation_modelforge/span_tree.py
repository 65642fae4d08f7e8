# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Spans as text: a tree, with the details and the duration of each span next to its name."""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes

from .semconv import GEN_AI_USAGE_COST_AMOUNT, MODELFORGE_LLM_TYPE, MODELFORGE_MODEL, MODELFORGE_PROVIDER
from .values import count, items, price

WIDTH: Final = 100
"""Columns of a line if the stream is not a terminal."""

_SEPARATOR: Final = " · "
_GAP: Final = "  "
_DEEPEST: Final = 50
# For a span with a next sibling, and for the last: before its name, and before the lines below it.
_BRANCHES: Final = (("├─ ", "│  "), ("└─ ", "   "))
_ASCII: Final = str.maketrans(
    {"├": "|", "└": "`", "│": "|", "─": "-", "·": "-", "→": "->", "…": "...", "\N{REPLACEMENT CHARACTER}": "?"}
)
# HTTP instrumentations emit the stable names only if OTEL_SEMCONV_STABILITY_OPT_IN enables them.
_HTTP_STATUS: Final = ("http.response.status_code", "http.status_code")
_HTTP_URL: Final = ("url.full", "http.url")
# A URL's user information may contain credentials, and its query credentials and content.
_PRIVATE_URL_PARTS: Final = re.compile(r"(?<=//)[^/?#]*@|[?#].*", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanSummary:
    """The parts of a span that are printed."""

    name: str
    trace_id: str = ""
    span_id: str
    parent_id: str | None = None
    has_remote_parent: bool = False
    start_ns: int
    end_ns: int
    details: Sequence[str] = ()
    """Texts shown next to the name."""
    links: Sequence[str] = ()
    """Ids of the linked spans."""
    failed: bool = False


def span_details(attributes: Mapping[str, object], *, failed: bool = False) -> Iterator[str]:
    """Yield the details of an HTTP request, a ``get_llm`` or a model call, and the error of any span."""
    if failed:
        error = attributes.get(error_attributes.ERROR_TYPE)
        yield "failed" if error is None else f"failed: {error}"
    if (status := _first(attributes, _HTTP_STATUS)) is not None:
        yield str(status)
    if (url := _first(attributes, _HTTP_URL)) is not None:
        yield _PRIVATE_URL_PARTS.sub("", str(url))
    if gen_ai.GEN_AI_OPERATION_NAME in attributes:
        yield from _model_call_details(attributes)
    else:
        names = (MODELFORGE_PROVIDER, MODELFORGE_MODEL, MODELFORGE_LLM_TYPE)
        yield from (str(attributes[name]) for name in names if name in attributes)


def _first(attributes: Mapping[str, object], names: Iterable[str]) -> object:
    return next((attributes[name] for name in names if name in attributes), None)


def _model_call_details(attributes: Mapping[str, object]) -> Iterator[str]:
    if (model := attributes.get(gen_ai.GEN_AI_REQUEST_MODEL)) is not None:
        yield str(model)
    tokens = [
        count(attributes.get(name)) for name in (gen_ai.GEN_AI_USAGE_INPUT_TOKENS, gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS)
    ]
    if any(number is not None for number in tokens):
        read, written = ("?" if number is None else f"{number:,}" for number in tokens)
        yield f"{read} → {written} tokens"
    if (amount := price(attributes.get(GEN_AI_USAGE_COST_AMOUNT))) is not None:
        yield format_dollars(amount)
    if (seconds := price(attributes.get(gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK))) is not None:
        yield f"first chunk {format_duration(seconds)}"
    reasons = items(attributes.get(gen_ai.GEN_AI_RESPONSE_FINISH_REASONS))
    if any(reason != "stop" for reason in reasons):
        yield ", ".join(map(str, reasons))


# --- Layout ---


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    label: str
    below: str = ""
    """The branches for the row's further lines, which hold the details that do not fit on the first."""
    details: Sequence[str] = ()
    duration: str = ""
    failed: bool


def format_trees(
    spans: Iterable[SpanSummary],
    *,
    width: int = WIDTH,
    color: bool = False,
    encoding: str = "utf-8",
    max_rows: int | None = None,
) -> list[str]:
    """Return the lines of a tree for each span whose parent is not among `spans`, in the order of their start.

    A span to which other spans are linked is numbered, and the others refer to its number.

    :param width: columns of a line, if at least about 40.
    :param color: whether the lines of failed spans are red.
    :param encoding: the encoding of the output; characters that it lacks are replaced by ASCII ones.
    :param max_rows: spans shown, or None for all. Each span shows the same number of children, the largest that fits.
    """
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    linked = {span_id for span in ordered for span_id in span.links}
    numbered = [span.span_id for span in ordered if span.span_id in linked]
    references = {span_id: f"[{number}]" for number, span_id in enumerate(dict.fromkeys(numbered), start=1)}
    ids = {span.span_id for span in ordered}
    roots = [span for span in ordered if span.parent_id not in ids]
    children = children_by_parent(ordered)
    # Each level is indented by three columns; half of the line is left for names and details.
    deepest = min(width // 6, _DEEPEST)

    def rows(siblings: int) -> list[_Row]:
        return list(_rows(roots, children, references, siblings, deepest))

    shown = rows(len(ordered))
    if max_rows is not None and len(shown) > max_rows:
        fitting = bisect_right(range(1, max_rows), max_rows, key=lambda siblings: len(rows(siblings)))
        shown = rows(max(fitting, 1))
    return list(_lines(shown, width, color, encoding))


def children_by_parent(spans: Iterable[SpanSummary]) -> dict[str | None, list[SpanSummary]]:
    """Return the spans grouped by their parent's id."""
    children: dict[str | None, list[SpanSummary]] = {}
    for span in spans:
        children.setdefault(span.parent_id, []).append(span)
    return children


def descendants(
    roots: Iterable[SpanSummary], children: Mapping[str | None, Sequence[SpanSummary]]
) -> list[SpanSummary]:
    """Return `roots` and the spans below them, each once, even if malformed spans are each other's parents."""
    found: dict[str, SpanSummary] = {}
    stack = list(roots)
    while stack:
        span = stack.pop()
        if span.span_id not in found:
            found[span.span_id] = span
            stack += children.get(span.span_id, ())
    return list(found.values())


def _rows(
    spans: Sequence[SpanSummary],
    children: Mapping[str | None, Sequence[SpanSummary]],
    references: Mapping[str, str],
    siblings: int,
    deepest: int,
    indent: str | None = None,
) -> Iterator[_Row]:
    """Yield a row for each span and those below it, and one that counts the spans left out.

    :param siblings: spans shown below one parent.
    :param deepest: levels shown below `spans`.
    :param indent: the branches of the levels above; None for roots, which have no branch.
    """
    shown = spans[:siblings] if deepest >= 0 else ()
    hidden = descendants(spans[len(shown) :], children)
    for span in shown:
        branch, below = ("", "") if indent is None else (indent + part for part in _BRANCHES[span is spans[-1]])
        inner = children.get(span.span_id, ())
        yield _Row(
            label=" ".join((branch + span.name, *_marks(span, references))),
            below=below + ("│" if inner else ""),
            details=span.details,
            duration=format_duration((span.end_ns - span.start_ns) / 1e9),
            failed=span.failed,
        )
        yield from _rows(inner, children, references, siblings, deepest - 1, below)
    if hidden:
        failures = sum(span.failed for span in hidden)
        yield _Row(
            label=("" if indent is None else indent + _BRANCHES[True][0]) + f"… {len(hidden):,} more",
            details=[f"{failures:,} failed"] if failures else (),
            failed=failures > 0,
        )


def _marks(span: SpanSummary, references: Mapping[str, str]) -> Iterator[str]:
    """Yield the number of a span to which others are linked, and the numbers of those to which it is linked."""
    if span.span_id in references:
        yield references[span.span_id]
    yield from (f"→ {references[span_id]}" for span_id in span.links if span_id in references)


def _lines(rows: Sequence[_Row], width: int, color: bool, encoding: str) -> Iterator[str]:
    if not rows:
        return
    separator, ellipsis = (in_encoding(text, encoding) for text in (_SEPARATOR, "…"))
    labels = [in_encoding(row.label, encoding) for row in rows]
    details = [[in_encoding(text, encoding) for text in row.details] for row in rows]
    label_width = max(map(display_width, labels))
    details_width = max(display_width(separator.join(texts)) for texts in details)
    duration_width = max(len(row.duration) for row in rows)
    room = max(width - duration_width - 2 * len(_GAP), 20)
    details_width = min(details_width, max(room - label_width, min(20, room // 2)))
    label_width = min(label_width, room - details_width)
    for row, label, texts in zip(rows, labels, details, strict=True):
        first, *others = _wrapped(texts, details_width, separator, ellipsis) or [""]
        cells = (
            _padded(_cut(label, label_width, ellipsis), label_width),
            _padded(first, details_width),
            row.duration.rjust(duration_width),
        )
        line = _GAP.join(cells).rstrip()
        yield f"\x1b[31m{line}\x1b[0m" if color and row.failed else line
        below = _padded(_cut(in_encoding(row.below, encoding), label_width, ellipsis), label_width)
        yield from (f"{below}{_GAP}{other}" for other in others)


def _wrapped(texts: Iterable[str], width: int, separator: str, ellipsis: str) -> list[str]:
    lines: list[str] = []
    for text in texts:
        text = _cut(text, width, ellipsis)  # noqa: PLW2901
        if lines and display_width(lines[-1] + separator + text) <= width:
            lines[-1] += separator + text
        else:
            lines.append(text)
    return lines


# --- Text ---


def format_duration(seconds: float) -> str:
    """Return a duration in a suitable unit, with about three digits."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def format_dollars(amount: float) -> str:
    """Return an amount with cents, or with enough decimals to show two digits of it."""
    decimals = max(2, 1 - math.floor(math.log10(amount))) if amount > 0 else 2
    return f"${amount:.{decimals}f}"


def display_width(text: str) -> int:
    """Return the columns that a terminal needs for a text: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def _padded(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def _cut(text: str, width: int, ellipsis: str) -> str:
    if display_width(text) <= width:
        return text
    text = text[:width]
    while text and display_width(text + ellipsis) > width:
        text = text[:-1]
    return text + ellipsis


def in_encoding(text: str, encoding: str) -> str:
    """Return a text whose characters that `encoding` lacks are replaced by ASCII ones or by escape sequences."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text
