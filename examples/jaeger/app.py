# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that calls its model twice. It creates a span for the request, and no other telemetry."""

import logging

from modelforge import ModelForgeRegistry
from opentelemetry import trace

tracer = trace.get_tracer(__name__)


def main() -> None:
    """Serve one request."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.WARNING)
    with tracer.start_as_current_span("plan a day"):
        llm = ModelForgeRegistry().get_llm(enhanced=False)
        print(llm.invoke("Give a day in Lisbon a title of three words.").content)
        # ModelForge sets a base_url, with which LangChain requests a stream's usage only if stream_usage is set.
        for chunk in llm.stream("And now in two.", stream_usage=True):
            print(chunk.content, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
