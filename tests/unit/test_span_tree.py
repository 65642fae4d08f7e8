# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The layout of a tree of spans."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge.span_tree import (
    SpanSummary,
    display_width,
    format_dollars,
    format_duration,
    format_trees,
)
from support.trees import compact

MILLISECOND = 1_000_000


@pytest.mark.parametrize(("seconds", "text"), [(0.0004, "0.4 ms"), (0.0123, "12 ms"), (2.5, "2500 ms"), (61, "61.0 s")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.0, "$0.00"), (1.5, "$1.50"), (0.012, "$0.012"), (0.0000273, "$0.000027")]
)
def test_dollars(amount: float, text: str) -> None:
    assert format_dollars(amount) == text


# --- Layout ---


def summary(name: str, span_id: int, parent_id: int | None = None, **values: Any) -> SpanSummary:
    return SpanSummary(
        name=name,
        span_id=str(span_id),
        parent_id=None if parent_id is None else str(parent_id),
        start_ns=span_id,
        end_ns=span_id + 2 * MILLISECOND,
        **values,
    )


def test_tree_of_no_spans_is_empty() -> None:
    assert format_trees([]) == []


def test_tree_orders_by_start_and_shows_orphans_as_roots() -> None:
    spans = [summary("b", 3, 1), summary("orphan", 5, 99), summary("a", 2, 1), summary("c", 4, 2), summary("root", 1)]
    assert format_trees(spans) == [
        "root       2.0 ms",
        "├─ a       2.0 ms",
        "│  └─ c    2.0 ms",
        "└─ b       2.0 ms",
        "orphan     2.0 ms",
    ]


def test_details_that_do_not_fit_are_on_further_lines() -> None:
    details = ["a-model-with-a-long-name", "? → 1,234 tokens", "$0.50", "first chunk 250 ms", "length, stop"]
    spans = [summary("call", 1, details=details), summary("POST", 2, 1, details=["http://" + 40 * "x"])]
    assert format_trees(spans, width=50) == [
        "call     a-model-with-a-long-name           2.0 ms",
        "│        ? → 1,234 tokens · $0.50",
        "│        first chunk 250 ms · length, stop",
        "└─ POST  http://xxxxxxxxxxxxxxxxxxxxxxxxx…  2.0 ms",
    ]


@given(
    st.lists(
        st.tuples(
            st.text("ab天é\u0301", max_size=60), st.integers(0, 9), st.lists(st.text("ab天 ", max_size=30), max_size=5)
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(40, 150),
    st.sampled_from(["utf-8", "latin-1", "ascii"]),
)
def test_lines_are_never_wider_than_asked_for(
    spans: list[tuple[str, int, list[str]]], width: int, encoding: str
) -> None:
    summaries = [summary(name, i, i - back, details=details) for i, (name, back, details) in enumerate(spans) if back]
    for line in format_trees(summaries, width=width, encoding=encoding):
        assert display_width(line) <= width
        line.encode(encoding)


def test_wide_characters_keep_the_columns_aligned() -> None:
    spans = [summary("天気", 1, details=["東京"]), summary("e\u0301t", 2, 1), summary("plain", 3, 1, details=["x"])]
    assert format_trees(spans) == [
        "天気      東京  2.0 ms",
        "├─ e\u0301t           2.0 ms",
        "└─ plain  x     2.0 ms",
    ]
    assert [display_width(line) for line in format_trees(spans)] == [22, 22, 22]


def test_wide_characters_are_truncated_by_their_width() -> None:
    assert format_trees([summary(40 * "天", 1)], width=49) == [19 * "天" + "…    2.0 ms"]
    assert format_trees([summary(40 * "天", 1)], width=50) == [19 * "天" + "…     2.0 ms"]


def test_many_siblings_are_truncated_and_counted() -> None:
    spans = [summary("root", 1), *(summary("call", i, 1) for i in range(2, 119))]
    lines = format_trees(spans, max_rows=22)
    assert len(lines) == 22
    assert lines[-2:] == ["├─ call         2.0 ms", "└─ … 97 more"]
    assert format_trees(spans, max_rows=118) == format_trees(spans)
    assert len(format_trees(spans)) == 118


def test_truncated_tree_keeps_its_shape_and_counts_all_omitted_spans_and_failures() -> None:
    spans = [summary("root", 0)]
    for turn in range(1, 11):
        spans += [summary(f"turn {turn}", 10 * turn, 0)]
        spans += [summary("call", 10 * turn + i, 10 * turn, failed=i == turn) for i in range(1, 5)]
    assert compact("\n".join(format_trees(spans, max_rows=10, color=True))) == [
        "root  2.0 ms",
        "├─ turn 1  2.0 ms",
        "\x1b[31m│  ├─ call  2.0 ms\x1b[0m",
        "│  ├─ call  2.0 ms",
        "│  └─ … 2 more",
        "├─ turn 2  2.0 ms",
        "│  ├─ call  2.0 ms",
        "\x1b[31m│  ├─ call  2.0 ms\x1b[0m",
        "│  └─ … 2 more",
        "\x1b[31m└─ … 40 more  2 failed\x1b[0m",
    ]


def test_deep_tree_is_truncated_at_half_of_the_line() -> None:
    spans = [summary(f"level {i}", i, i - 1) for i in range(1, 3001)]
    lines = format_trees(spans, width=60)
    assert len(lines) == 12
    assert lines[-1] == 30 * " " + "└─ … 2,989 more"


def test_failed_lines_are_red() -> None:
    spans = [summary("request", 1), summary("call", 2, 1, failed=True)]
    assert format_trees(spans, color=True) == ["request    2.0 ms", "\x1b[31m└─ call    2.0 ms\x1b[0m"]


@pytest.mark.parametrize(
    ("encoding", "lines"),
    [
        ("utf-8", ["天  1 → 2 · é  2.0 ms", "├─ a  2.0 ms", "│  └─ b  2.0 ms", "└─ … 2 more"]),
        ("latin-1", [r"\u5929  1 -> 2 · é  2.0 ms", "|- a  2.0 ms", "|  `- b  2.0 ms", "`- ... 2 more"]),
        ("ascii", [r"\u5929  1 -> 2 - \xe9  2.0 ms", "|- a  2.0 ms", "|  `- b  2.0 ms", "`- ... 2 more"]),
        ("cp437", [r"\u5929  1 -> 2 · é  2.0 ms", "├─ a  2.0 ms", "│  └─ b  2.0 ms", "`- ... 2 more"]),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, lines: list[str]) -> None:
    spans = [summary("天", 1, details=["1 → 2", "é"]), summary("a", 2, 1), summary("b", 3, 2), summary("c", 4, 1)]
    spans += [summary("d", 5, 1)]
    text = "\n".join(format_trees(spans, encoding=encoding, max_rows=4))
    assert [re.sub(r"(?<=[^\s│|])  +", "  ", line) for line in text.splitlines()] == lines
