# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Requests of calls in the form that LangChain's callbacks receive them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from opentelemetry_instrumentation_modelforge.request import Request

RUN_ID = UUID(int=1)


def request_with(params: Mapping[str, Any] | None = None, **fields: Any) -> Request:
    """Return a request without a prompt, with these ``invocation_params``."""
    return Request(RUN_ID, (), params or {}, **fields)
