# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""A FastAPI service that delegates its model calls to the workers of celery_app.py."""

from __future__ import annotations

from celery_app import TIMEOUT, ask
from pydantic import BaseModel

from fastapi import FastAPI

app = FastAPI()


class Question(BaseModel):
    text: str


@app.post("/queued/chat")
def queued_chat(question: Question) -> str:
    return ask.delay(question.text).get(TIMEOUT, interval=0.05)
