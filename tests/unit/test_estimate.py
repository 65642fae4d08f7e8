# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The token estimate: a quarter of the characters, in bounded time."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation

from opentelemetry_instrumentation_modelforge import estimate
from opentelemetry_instrumentation_modelforge.estimate import estimated_usage
from opentelemetry_instrumentation_modelforge.response import Usage

CALLED = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "London!!", "days": 2}, "id": "call_1"}])
PROMPTS: dict[str, tuple[Any, int | None]] = {
    "a plain prompt": ("x" * 40, 10),
    "a message": (HumanMessage("x" * 40), 10),
    "fewer characters than a token has": (HumanMessage("x"), 1),
    "no text": (HumanMessage(""), None),
    "part of a token": (HumanMessage("x" * 43), 10),
    "blocks": (HumanMessage([{"type": "text", "text": "x" * 20}, "y" * 20]), 10),
    "an image": (HumanMessage([{"type": "image_url", "image_url": "x" * 400}]), None),
    "arguments of a tool": (CALLED, 2),
    "an answer": (ChatGeneration(message=AIMessage("x" * 40)), 10),
    "a completion": (Generation(text="x" * 40), 10),
    "no message": (object(), None),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_one_token_is_estimated_for_every_four_characters(kind: str) -> None:
    source, tokens = PROMPTS[kind]
    assert estimated_usage([source], []) == Usage(tokens, 0)
    assert estimated_usage([], [source]) == Usage(None, tokens or 0)


def test_all_messages_and_all_choices_are_counted() -> None:
    prompt = [SystemMessage("x" * 30), HumanMessage("y" * 10)]
    choices = [ChatGeneration(message=AIMessage("a" * 8)), ChatGeneration(message=AIMessage("b" * 8))]
    assert estimated_usage(prompt, choices) == Usage(10, 4)


def test_nothing_is_estimated_without_text() -> None:
    assert estimated_usage([], []) == Usage(None, 0)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", {"content": 1}, [None, {"text": 5}, {}]])
def test_malformed_content_is_not_counted(bad: object) -> None:
    message = HumanMessage.model_construct(content=bad, tool_calls=[None, {"args": 3}, {}])
    assert estimated_usage([message], [ChatGeneration.model_construct(message=message)]) == Usage()


@pytest.mark.parametrize(
    "long",
    [
        lambda texts: [HumanMessage("x" * 4) for _ in range(texts)],
        lambda texts: [HumanMessage([{"type": "text", "text": "x" * 4}] * texts)],
        lambda texts: ["x" * 4] * texts,
    ],
    ids=["messages", "blocks", "prompts"],
)
def test_a_long_history_is_estimated_from_its_first_texts(long: Callable[[int], list[Any]]) -> None:
    assert estimated_usage(long(999), []) == Usage(999, 0)
    assert estimated_usage(long(1000), []) == Usage(1000, 0)
    assert estimated_usage(long(5000), []) == Usage(1000, 0)
    assert estimate._MOST_TEXTS == 1000


def seconds(prompt: list[Any]) -> float:
    def once() -> float:
        start = process_time()
        estimated_usage(prompt, [ChatGenerationChunk.model_construct(message=prompt[0])])
        return process_time() - start

    return min(once() for _ in range(20))


def test_the_time_does_not_grow_with_the_length() -> None:
    short, long = HumanMessage("x" * 1000), HumanMessage("x" * 10_000_000)
    assert seconds([long]) < 10 * seconds([short]) + 0.001
    assert seconds([short] * 100_000) < 10 * seconds([short] * 1000) + 0.001
