# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An in-process model, handed out by ModelForge: OpenAI's integration with predefined answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from modelforge.registry import ModelForgeRegistry
from openai.types.chat import ChatCompletion, ChatCompletionChunk

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
COMMON = {"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "created": 1}


def answer(text: str = "Hello") -> dict[str, Any]:
    """Return an answer in the form that the API sends."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**COMMON, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def chunks(count: int = 3, text: str = "Hello ") -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream in the form that the API sends, the last of which contains the usage."""
    of_chunk = {**COMMON, "object": "chat.completion.chunk"}
    for _ in range(count - 1):
        yield {**of_chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]}
    yield {**of_chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}


class InstantOpenAI(ChatOpenAI):
    """Answers without a server, with the code that reads a server's answer.

    ``fails`` is raised instead of an answer, and after the chunks of a stream: an exception, or a class of which each
    call raises a new instance, because the traceback keeps references to the failed call.
    """

    chunk_count: int = 3
    text: str = "Hello"
    fails: Any = None

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.fails is not None:
            raise self.fails
        return self._create_chat_result(self._received(ChatCompletion, answer(self.text)))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in chunks(self.chunk_count, self.text):
            received = self._received(ChatCompletionChunk, chunk)
            converted = self._convert_chunk_to_generation_chunk(received, AIMessageChunk, None)
            if converted is not None:
                yield converted
        if self.fails is not None:
            raise self.fails

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk

    def _received(self, kind: type[Any], raw: dict[str, Any]) -> dict[str, Any]:
        # The openai package does the same with each body and each event.
        received: Any = self.root_client._process_response_data(data=raw, cast_to=kind, response=None)
        return received.model_dump()


class InstantRegistry(ModelForgeRegistry):
    """ModelForge's registry with one provider, which only differs in the client that it builds.

    :param model: the class of the client.
    :param fields: its fields.
    """

    def __init__(self, model: type[Any] = InstantOpenAI, **fields: Any) -> None:
        if not hasattr(ModelForgeRegistry, "_create_base_llm"):
            pytest.skip("ModelForge 2.0 builds its models within get_llm")
        super().__init__()
        provider = {"llm_type": "openai_compatible", "models": {"fast": {"api_model_name": "gpt-4o-mini"}}}
        self._config = {"providers": {"openai": provider}}
        self._model = model
        self._fields = fields

    def _create_base_llm(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(**{"model": "gpt-4o-mini", "api_key": "sk-test-0123456789abcdef", **self._fields})

    def _fetch_model_metadata(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"context_length": 128_000}
