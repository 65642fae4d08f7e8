# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A Celery application whose task calls a model. Celery's environment variables name the broker and the results."""

import logging

from celery.signals import worker_process_shutdown
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from modelforge import ModelForgeRegistry
from opentelemetry import metrics, trace

from celery import Celery

celery = Celery("tasks")
PROMPT = ChatPromptTemplate.from_template("Give this question a title of three words: {question}")
# ModelForge writes its log to standard output.
logging.getLogger("modelforge").setLevel(logging.WARNING)


@celery.task
def title(question: str) -> str:
    """Ask a model for the title of a question."""
    llm = ModelForgeRegistry().get_llm(enhanced=False)
    return (PROMPT | llm | StrOutputParser()).invoke({"question": question})


@worker_process_shutdown.connect
def flush(**_: object) -> None:
    """Export what this child of the pool still holds, because os._exit skips the exit handlers."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        # The API's own providers, in place until an SDK is set up, lack this method.
        if hasattr(provider, "force_flush"):
            provider.force_flush(timeout_millis=5_000)
