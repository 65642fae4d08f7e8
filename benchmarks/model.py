# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A chat model that answers immediately, handed out by ModelForge's own registry."""

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

# Set before ModelForge is imported, so that no user's configuration affects the benchmark.
_home = tempfile.TemporaryDirectory(prefix="modelforge-benchmark-")
os.environ["HOME"] = _home.name
# ModelForge logs each get_llm to standard output.
logging.disable(logging.INFO)

from langchain_core.language_models.chat_models import BaseChatModel  # noqa: E402
from langchain_core.messages import AIMessage, AIMessageChunk  # noqa: E402
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult  # noqa: E402
from modelforge.registry import ModelForgeRegistry  # noqa: E402

CHUNKS = 20
API_MODEL = "gpt-4o-mini"
API_RESPONSE_MODEL = "gpt-4o-mini-2024-07-18"
USAGE: Any = {
    "input_tokens": 11,
    "output_tokens": 7,
    "total_tokens": 18,
    "input_token_details": {"cache_read": 4},
    "output_token_details": {"reasoning": 3},
}
SAID: Any = {"model_name": API_RESPONSE_MODEL, "finish_reason": "stop"}


class InstantModel(BaseChatModel):
    """A model that returns what ``ChatOpenAI`` returns, without a request."""

    model_name: str = API_MODEL
    temperature: float = 0.5
    chunks: int = CHUNKS

    @property
    def _llm_type(self) -> str:
        return "instant"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        message = AIMessage(content="Hello", usage_metadata=USAGE, response_metadata=SAID)
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"id": "chatcmpl-1", **SAID})

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for _ in range(self.chunks - 1):
            yield ChatGenerationChunk(message=AIMessageChunk(content="Hello "))
        # As in OpenAI's API, the last chunk contains the usage.
        last = AIMessageChunk(content="", usage_metadata=USAGE)
        yield ChatGenerationChunk(message=last, generation_info=SAID)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk


class InstantRegistry(ModelForgeRegistry):
    """ModelForge's registry with one provider; only the client that it builds is replaced."""

    def __init__(self) -> None:
        super().__init__()
        provider = {"llm_type": "openai_compatible", "models": {"fast": {"api_model_name": API_MODEL}}}
        self._config = {"providers": {"openai": provider}}

    def _create_base_llm(self, *args: Any, **kwargs: Any) -> InstantModel:
        return InstantModel()


def get_llm() -> InstantModel:
    """Return the model as an application receives it."""
    return InstantRegistry().get_llm("openai", "fast", enhanced=False)
