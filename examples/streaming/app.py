# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that streams an answer four times, each with a different end. It creates a span for each stream."""

import asyncio
import logging
from contextlib import closing
from itertools import islice

from langchain_core.language_models import BaseChatModel
from modelforge import ModelForgeRegistry
from openai import APIError
from opentelemetry import trace

PATIENCE_SECONDS = 1

tracer = trace.get_tracer(__name__)


def read(llm: BaseChatModel) -> None:
    """Read a stream to its end."""
    # ModelForge sets a base_url, with which LangChain requests a stream's usage only if stream_usage is set.
    for chunk in llm.stream("What is Lisbon like?", stream_usage=True):
        print(chunk.content, end="", flush=True)
    print()


def skim(llm: BaseChatModel) -> None:
    """Read three chunks, and close the stream."""
    with closing(llm.stream("What is Lisbon like?", stream_usage=True)) as chunks:
        for chunk in islice(chunks, 3):
            print(chunk.content, end="", flush=True)
    print(" (that will do)")


async def wait(llm: BaseChatModel) -> None:
    """Read a stream until no chunk arrives for a while."""
    try:
        async with asyncio.timeout(None) as timeout:
            async for chunk in llm.astream("What is Lisbon like? Please stop in the middle.", stream_usage=True):
                print(chunk.content, end="", flush=True)
                timeout.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
    except TimeoutError:
        print(" (nothing more comes)")


def fail(llm: BaseChatModel) -> None:
    """Read a stream in which the provider reports an error."""
    try:
        for chunk in llm.stream("What is Lisbon like? Please fail in the middle.", stream_usage=True):
            print(chunk.content, end="", flush=True)
    except APIError as error:
        print(f" ({error})")


def main() -> None:
    """Stream in each way."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.WARNING)
    llm = ModelForgeRegistry().get_llm(enhanced=False)
    with tracer.start_as_current_span("read to the end"):
        read(llm)
    with tracer.start_as_current_span("close early"):
        skim(llm)
    with tracer.start_as_current_span("lose patience"):
        asyncio.run(wait(llm))
    with tracer.start_as_current_span("fail in the middle"):
        fail(llm)


if __name__ == "__main__":
    main()
