# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that makes the same calls for each line of its standard input, and answers with that line."""

from __future__ import annotations

import sys
from typing import Any

ASKED = "gpt-4o-mini"
STREAMED = "our-model"
FAIL = "fail"
"""What the provider answers with an error."""

ANSWERS = 3
ERRORS = 1
"""How many calls of `ASKED` end with which, each time."""
STREAMS = 2
"""How many streams of `STREAMED` are read to their end each time; one more is left open."""


def main() -> None:
    from modelforge import ModelForgeRegistry

    registry = ModelForgeRegistry()
    asked: Any = registry.get_llm("openai", ASKED)
    streamed: Any = registry.get_llm("openai", STREAMED)
    left_open: list[Any] = []
    for line in sys.stdin:
        for text in ["Hi"] * ANSWERS + [FAIL] * ERRORS:
            try:
                asked.invoke(text)
            except Exception as error:
                print(error)
        for _ in range(STREAMS):
            list(streamed.stream("Hi", stream_usage=True))
        left_open.append(streamed.stream("Hi"))
        next(left_open[-1])
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
