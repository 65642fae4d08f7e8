# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that uses ModelForge. It creates a span for the request, and no other telemetry."""

import logging

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from modelforge import ModelForgeRegistry
from opentelemetry import trace

tracer = trace.get_tracer(__name__)


@tool
def weather(city: str) -> str:
    """Get today's weather in a city."""
    return f"{city}: sunny, 24 °C, a light wind from the sea."


def answer(question: str) -> None:
    """Print a title for the question, and its answer as it arrives."""
    llm = ModelForgeRegistry().get_llm(enhanced=False)

    prompt = ChatPromptTemplate.from_template("Give this question a title of three words: {question}")
    title = (prompt | llm | StrOutputParser()).invoke({"question": question})
    print(f"{title}\n{question}")

    messages: list[BaseMessage] = [HumanMessage(question)]
    reply = llm.bind_tools([weather]).invoke(messages)
    messages += [reply, *(weather.invoke(call) for call in reply.tool_calls)]

    # ModelForge sets a base_url, with which LangChain requests a stream's usage only if stream_usage is set.
    for chunk in llm.stream(messages, stream_usage=True):
        print(chunk.content, end="", flush=True)
    print()


def main() -> None:
    """Serve one request."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.WARNING)
    with tracer.start_as_current_span("answer question"):
        answer("What should I wear in Lisbon today?")


if __name__ == "__main__":
    main()
