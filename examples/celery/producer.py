# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Serves one request with the tasks of the queue. It creates a span for the request."""

from opentelemetry import trace
from tasks import title

from celery import group

QUESTIONS = ("What should I wear in Lisbon today?", "Do I need an umbrella in Lisbon?")

tracer = trace.get_tracer(__name__)


def main() -> None:
    """Ask the workers for a title for each question, and wait for their answers."""
    with tracer.start_as_current_span("answer request"):
        titles = group(title.s(question) for question in QUESTIONS)().get(timeout=60)
    for question, name in zip(QUESTIONS, titles, strict=True):
        print(f"{name}: {question}")


if __name__ == "__main__":
    main()
