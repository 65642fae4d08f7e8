# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that makes the same calls for each line of its standard input, and then prints that line."""

from __future__ import annotations

import sys
from typing import Any

ASKED = "gpt-4o-mini"
STREAMED = "our-model"
FAIL = "fail"
"""The prompt that the provider answers with an error."""

ANSWERS = 3
ERRORS = 1
"""The numbers of calls of `ASKED` that end with an answer and with an error, each time."""
STREAMS = 2
"""The number of streams of `STREAMED` that are read to the end each time. One more is left open."""


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
