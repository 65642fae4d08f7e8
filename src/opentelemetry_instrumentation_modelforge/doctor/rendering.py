# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A diagnosis as text for people, and as JSON for programs."""

import json
from collections.abc import Iterator
from textwrap import wrap
from typing import Final

from .finding import Diagnosis, Finding, State

_TITLE_WIDTH: Final = 18
_MARKS: Final = {State.OK: "ok", State.WARNING: "warning", State.PROBLEM: "PROBLEM"}
_COLORS: Final = {State.OK: "32", State.WARNING: "33", State.PROBLEM: "31"}

SCHEMA: Final = 1
"""The version of the JSON document. It changes when a key is removed or changes its meaning."""


def as_text(diagnosis: Diagnosis, *, width: int = 100, color: bool = False) -> str:
    """Return the diagnosis as lines of at most ``width`` columns; a longer word has a line of its own.

    :param width: columns of the terminal.
    :param color: whether the states have colors.
    """
    lines = [_verdict(diagnosis), ""]
    for name, finding in diagnosis.findings.items():
        lines += _rows(diagnosis.titles[name], finding, width, color)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_json(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as a JSON document; ``docs/doctor.md`` describes its keys."""
    checks = [
        {
            "name": name,
            "title": diagnosis.titles[name],
            "state": finding.state.value,
            "detail": finding.detail,
            "remedy": finding.remedy,
            "data": finding.data,
        }
        for name, finding in diagnosis.findings.items()
    ]
    document = {"schema": SCHEMA, "spans_expected": diagnosis.spans_expected, "checks": checks}
    return json.dumps(document, indent=2, default=str) + "\n"


def _verdict(diagnosis: Diagnosis) -> str:
    problems, warnings = diagnosis.having(State.PROBLEM), diagnosis.having(State.WARNING)
    if problems:
        return f"No spans will come. Problems: {', '.join(diagnosis.titles[name] for name in problems)}."
    beside = f" Warnings: {', '.join(diagnosis.titles[name] for name in warnings)}." if warnings else ""
    return f"Spans will come.{beside}"


def _rows(title: str, finding: Finding, width: int, color: bool) -> Iterator[str]:
    mark = f"{_MARKS[finding.state]:8}"
    if color:
        mark = f"\033[{_COLORS[finding.state]}m{mark}\033[0m"
    indent = " " * (_TITLE_WIDTH + 9)
    room = max(width - len(indent), 30)
    first = f"{mark} {title:{_TITLE_WIDTH}}"
    for line in finding.detail.splitlines():
        for part in _wrapped(line, room):
            yield first + part
            first = indent
    for line in finding.remedy.splitlines():
        parts = _wrapped(line, room - 3)
        yield f"{indent}-> {parts[0]}"
        yield from (f"{indent}   {part}" for part in parts[1:])


def _wrapped(line: str, width: int) -> list[str]:
    # A command, a path or a URL is not cut.
    return wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
