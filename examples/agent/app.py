# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A LangGraph agent on ModelForge's models. It creates a span for each request, and no other telemetry."""

import asyncio
import logging
import os

import httpx
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.tools import tool
from langgraph.prebuilt import create_react_agent
from modelforge import ModelForgeRegistry
from opentelemetry import trace

QUESTION = "What should I pack for Lisbon?"
tracer = trace.get_tracer(__name__)


@tool("weather")
def weather(city: str) -> str:
    """Get today's weather in a city."""
    return httpx.get(f"{os.environ['WEATHER_URL']}/{city}").text


@tool("weather")
async def aweather(city: str) -> str:
    """Get today's weather in a city."""
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{os.environ['WEATHER_URL']}/{city}")).text


@tool("packing")
def packing(weather: str) -> str:
    """List what to pack for a weather."""
    return str(get_llm("packer").invoke(f"What does one wear in this weather? {weather}").content)


@tool("packing")
async def apacking(weather: str) -> str:
    """List what to pack for a weather."""
    return str((await get_llm("packer").ainvoke(f"What does one wear in this weather? {weather}")).content)


def get_llm(model: str) -> BaseChatModel:
    """Return a model from the configuration."""
    return ModelForgeRegistry().get_llm("openai", model, enhanced=False)


def answer() -> str:
    """Answer the question."""
    agent = create_react_agent(get_llm("agent"), [weather, packing])
    return str(agent.invoke({"messages": [("user", QUESTION)]})["messages"][-1].content)


async def aanswer() -> str:
    """Answer the question on the event loop."""
    agent = create_react_agent(get_llm("agent"), [aweather, apacking])
    return str((await agent.ainvoke({"messages": [("user", QUESTION)]}))["messages"][-1].content)


def main() -> None:
    """Serve one request synchronously and one on the event loop."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.ERROR)
    with tracer.start_as_current_span("request"):
        print(answer())
    with tracer.start_as_current_span("async request"):
        print(asyncio.run(aanswer()))


if __name__ == "__main__":
    main()
