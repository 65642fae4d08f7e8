# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The estimate of a call's tokens, for the span only, if the provider reported none."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from .response import Usage
from .values import items, mapping

# As in ModelForge's own estimate (modelforge.telemetry).
_CHARACTERS_PER_TOKEN: Final = 4

_MOST_TEXTS: Final = 1000
"""The number of texts that are counted at most, so that a long history does not slow down a call."""


def estimated_usage(prompt: Sequence[object], generations: Sequence[object]) -> Usage:
    """Return an estimate from the number of characters. The output is 0 for a stream that has produced no content.

    :param prompt: LangChain's messages, or plain prompts.
    :param generations: LangChain's generations.
    """
    output = _tokens(generations)
    return Usage(_tokens(prompt), output if output is not None or any(map(_has_content, generations)) else 0)


def _has_content(generation: object) -> bool:
    message = getattr(generation, "message", None)
    names = ("content", "tool_calls", "tool_call_chunks", "invalid_tool_calls", "additional_kwargs")
    return any(getattr(message, name, None) for name in names)


def _tokens(sources: Iterable[object]) -> int | None:
    lengths = map(len, chain.from_iterable(map(_texts, sources)))
    characters = sum(islice(lengths, _MOST_TEXTS))
    return max(characters // _CHARACTERS_PER_TOKEN, 1) if characters else None


def _texts(source: object) -> Iterator[str]:
    """Yield the texts of a plain prompt, of a message, or of a generation with or without a message."""
    if isinstance(source, str):
        yield source
        return
    message = getattr(source, "message", source)
    content: object = getattr(message, "content", getattr(message, "text", None))
    for part in (content, *items(content)):
        text = part if isinstance(part, str) else mapping(part).get("text")
        if isinstance(text, str):
            yield text
    for tool_call in items(getattr(message, "tool_calls", None)):
        for value in mapping(mapping(tool_call).get("args")).values():
            if isinstance(value, str):
                yield value
