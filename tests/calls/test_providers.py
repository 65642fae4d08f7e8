# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The servers of `providers`, used by ModelForge's own models without instrumentation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import openai
import pytest
from google.api_core import exceptions as google_errors
from langchain_core.messages import HumanMessage, ToolMessage
from modelforge import ModelForgeRegistry
from requests.exceptions import ChunkedEncodingError

from support.calls import MODELS, TIMEOUT, Person, weather
from support.environment import COUNTS_REASONING
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, get_llm, without_retries, write_config
from support.providers import REFRESHED_TOKEN, ProviderServer, Reply

PROVIDERS = {**MODELS, "openrouter": "qwen"}
STREAMING = [provider for provider in PROVIDERS if provider != "github_copilot"]


def model(registry: ModelForgeRegistry, provider: str) -> Any:
    return without_retries(get_llm(registry, provider, PROVIDERS[provider]))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers(registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str) -> None:
    assert model(registry, provider).invoke("Hi").content == "Hello there friend"
    assert "Hi" in str(provider_server.request.body)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_asynchronously(registry: ModelForgeRegistry, provider: str) -> None:
    assert asyncio.run(model(registry, provider).ainvoke("Hi")).content == "Hello there friend"


@pytest.mark.parametrize("provider", STREAMING)
def test_streams(registry: ModelForgeRegistry, provider: str) -> None:
    chunks = [chunk.content for chunk in model(registry, provider).stream("Hi")]
    assert [chunk for chunk in chunks if chunk] == ["Hello", " there", " friend"]


@pytest.mark.parametrize("provider", STREAMING)
def test_streams_asynchronously(registry: ModelForgeRegistry, provider: str) -> None:
    async def chunks() -> list[str]:
        return [chunk.content async for chunk in model(registry, provider).astream("Hi") if chunk.content]

    assert asyncio.run(chunks()) == ["Hello", " there", " friend"]


def test_copilot_does_not_stream(registry: ModelForgeRegistry, provider_server: ProviderServer) -> None:
    async def chunks() -> list[str]:
        return [chunk.content async for chunk in model(registry, "github_copilot").astream("Hi")]

    assert [chunk.content for chunk in model(registry, "github_copilot").stream("Hi")] == ["Hello there friend"]
    assert asyncio.run(chunks()) == ["Hello there friend"]
    assert [request.body["stream"] for request in provider_server.requests] == [False, False]


@pytest.mark.parametrize(
    ("provider", "header", "secret"),
    [
        ("openai", "authorization", f"Bearer {OPENAI_KEY}"),
        ("github_copilot", "authorization", f"Bearer {COPILOT_TOKEN}"),
        ("google", "x-goog-api-key", GOOGLE_KEY),
    ],
)
def test_receives_the_key(
    registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str, header: str, secret: str
) -> None:
    model(registry, provider).invoke("Hi")
    assert provider_server.request.headers[header] == secret


@pytest.mark.parametrize("provider", ["openai", pytest.param("google", marks=COUNTS_REASONING)])
def test_reports_usage(registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str) -> None:
    llm = model(registry, provider)
    chunks = list(llm.stream("Hi", **({"stream_usage": True} if provider == "openai" else {})))
    for usage in (llm.invoke("Hi").usage_metadata, sum(chunks[1:], chunks[0]).usage_metadata):
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (11, 7, 18)
        assert usage["input_token_details"]["cache_read"] == 4
        assert usage["output_token_details"]["reasoning"] == 3


def test_openai_streams_no_usage_unless_requested(registry: ModelForgeRegistry) -> None:
    assert not any(chunk.usage_metadata for chunk in model(registry, "openai").stream("Hi"))


def test_ollama_reports_usage(registry: ModelForgeRegistry) -> None:
    (generation,) = model(registry, "ollama").generate([[HumanMessage("Hi")]]).generations[0]
    assert generation.generation_info["prompt_eval_count"] == 11
    assert generation.generation_info["eval_count"] == 7
    assert generation.generation_info["done_reason"] == "stop"


def test_openrouter_reports_cost(registry: ModelForgeRegistry, provider_server: ProviderServer) -> None:
    provider_server.reply = Reply(cost=0.0012)
    message = model(registry, "openrouter").invoke("Hi")
    assert message.response_metadata["token_usage"]["cost"] == 0.0012


@pytest.mark.parametrize(
    ("provider", "error", "secret"),
    [
        ("openai", openai.AuthenticationError, OPENAI_KEY),
        ("github_copilot", ValueError, COPILOT_TOKEN),
        ("google", google_errors.Unauthenticated, GOOGLE_KEY),
        ("ollama", ValueError, "Incorrect API key"),
    ],
)
def test_refusals_quote_the_key(
    registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str, error: type[Exception], secret: str
) -> None:
    provider_server.reply = Reply(status=401)
    with pytest.raises(error, match=secret):
        model(registry, provider).invoke("Hi")


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        ("openai", httpx.RemoteProtocolError),
        ("ollama", ChunkedEncodingError),
        ("google", google_errors.InternalServerError),
    ],
)
def test_cut_streams(
    registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str, error: type[Exception]
) -> None:
    provider_server.reply = Reply(cut_after=2)
    stream = model(registry, provider).stream("Hi")
    texts = (chunk.content for chunk in stream if chunk.content)
    assert [next(texts), next(texts)] == ["Hello", " there"]
    with pytest.raises(error):
        next(texts)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_cut_answers(registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str) -> None:
    provider_server.reply = Reply(cut_after=0)
    with pytest.raises((openai.APIConnectionError, ChunkedEncodingError, google_errors.InternalServerError)):
        model(registry, provider).invoke("Hi")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("method", ["invoke", "stream"])
def test_malformed_answers(
    registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str, method: str
) -> None:
    provider_server.reply = Reply(malformed=True)
    with pytest.raises((ValueError, openai.OpenAIError, google_errors.GoogleAPIError)):
        list(getattr(model(registry, provider), method)("Hi"))


@pytest.mark.parametrize("provider", STREAMING)
def test_held_streams(registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str) -> None:
    provider_server.reply = Reply(hold_after=2)
    first, done = threading.Event(), threading.Event()

    def consume() -> None:
        for _ in model(registry, provider).stream("Hi"):
            first.set()
        done.set()

    threading.Thread(target=consume, daemon=True).start()
    assert provider_server.held.wait(TIMEOUT)
    assert first.wait(TIMEOUT)
    assert not done.is_set()
    provider_server.release.set()
    assert done.wait(TIMEOUT)


@pytest.mark.parametrize("provider", ["openai", "ollama", "google"])
def test_held_requests_can_be_cancelled(
    registry: ModelForgeRegistry, provider_server: ProviderServer, provider: str
) -> None:
    provider_server.reply = Reply(hold=True)

    async def cancel() -> None:
        call = asyncio.create_task(model(registry, provider).ainvoke("Hi"))
        assert await asyncio.to_thread(provider_server.held.wait, TIMEOUT)
        call.cancel()
        await call

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel())


@pytest.mark.parametrize("provider", ["openai", "google", "github_copilot"])
@pytest.mark.parametrize("method", ["invoke", "stream"])
def test_calls_tools(registry: ModelForgeRegistry, provider: str, method: str) -> None:
    llm = model(registry, provider).bind_tools([weather])
    messages: list[Any] = [HumanMessage("How is the weather in Paris?")]
    if method == "invoke":
        call = llm.invoke(messages)
    else:
        chunks = list(llm.stream(messages))
        call = sum(chunks[1:], chunks[0])
    assert [(call["name"], call["args"]) for call in call.tool_calls] == [("weather", {"city": "Paris"})]
    messages += [call, ToolMessage("Sunny", tool_call_id=call.tool_calls[0]["id"], name="weather")]
    assert llm.invoke(messages).content == "Hello there friend"


@pytest.mark.parametrize("provider", ["openai", "google"])
def test_answers_with_structured_output(registry: ModelForgeRegistry, provider: str) -> None:
    assert model(registry, provider).with_structured_output(Person).invoke("Who?") == Person(name="Paris", age=21)


def test_answers_in_several_ways(registry: ModelForgeRegistry) -> None:
    (choices,) = model(registry, "openai").generate([[HumanMessage("Hi")]], n=3).generations
    assert len(choices) == 3


def test_scripts_by_request(registry: ModelForgeRegistry, provider_server: ProviderServer) -> None:
    provider_server.reply = lambda body: Reply(text=body["messages"][0]["content"].upper())
    assert model(registry, "openai").invoke("Hi").content == "HI"


def test_refreshes_tokens(
    registry: ModelForgeRegistry, provider_server: ProviderServer, model_config: dict[str, Any]
) -> None:
    model_config["providers"]["github_copilot"]["auth_data"]["expires_at"] = "2001-01-01T00:00:00+00:00"
    write_config(model_config)
    model(registry, "github_copilot").invoke("Hi")
    assert provider_server.requests[-1].headers["authorization"] == f"Bearer {REFRESHED_TOKEN}"


def test_publishes_prices(registry: ModelForgeRegistry) -> None:
    llm: Any = without_retries(get_llm(registry, "openai", "gpt-4o-mini", enhanced=True))
    assert llm.pricing_info == {"input_per_1m": 0.15, "output_per_1m": 0.6, "currency": "USD"}
    assert llm.invoke("Hi").content == "Hello there friend"
