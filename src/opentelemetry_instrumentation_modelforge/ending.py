# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The end of a call: its outcome, its answer, and the attributes derived from both."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from langchain_core.outputs import LLMResult
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.util.types import AttributeValue

from .errors import error_type
from .estimate import estimated_usage
from .model import Model
from .request import Request
from .response import Response
from .semconv import (
    GEN_AI_USAGE_COST_AMOUNT,
    GEN_AI_USAGE_COST_CURRENCY,
    GEN_AI_USAGE_COST_SOURCE,
    MODELFORGE_OUTCOME,
    MODELFORGE_RESPONSE_CHUNK_COUNT,
    MODELFORGE_USAGE_ESTIMATED,
    MODELFORGE_USAGE_REFERENCE_COST,
)

Outcome = Literal["completed", "failed", "cancelled", "closed", "abandoned"]
"""Ended with its answer, with an error, by cancellation, as a stream that its consumer left, or never."""


class Ending(NamedTuple):
    """How a call ended, and its answer in LangChain's form."""

    outcome: Outcome
    generations: Sequence[object] = ()
    llm_output: object = None
    error: BaseException | None = None
    result: LLMResult | None = None
    """The result that LangChain has passed to its callbacks, if any."""

    def error_type(self, response: Response) -> str | None:
        """Return the ``error.type`` of the call, or None if it did not fail."""
        if self.error is not None:
            return error_type(self.error)
        # A stream that its consumer has left does not show how it ended.
        return response.error if self.outcome == "completed" else None

    def is_complete(self, response: Response) -> bool:
        """Return whether the call has its whole answer."""
        return self.outcome == "completed" and response.error is None

    def llm_result(self) -> LLMResult:
        """Return the result that LangChain passes to its callbacks."""
        return self.result or LLMResult.model_construct(
            generations=[list(self.generations)], llm_output=self.llm_output
        )

    def attributes(
        self, model: Model, request: Request, response: Response, cost: float | None
    ) -> dict[str, AttributeValue]:
        """Return the attributes of the inference span that are known when the call has ended.

        :param cost: of the call, in US dollars.
        """
        attributes: dict[str, AttributeValue] = {MODELFORGE_OUTCOME: self.outcome}
        if (error := self.error_type(response)) is not None:
            attributes[error_attributes.ERROR_TYPE] = error
            if self.outcome == "completed":
                attributes[MODELFORGE_OUTCOME] = "failed"
        attributes.update(response.attributes())
        usage = response.usage
        estimate = model.telemetry.configuration.estimate_tokens and not response.cached
        if usage is None and self.generations and estimate:
            usage = estimated_usage(request.prompt, self.generations)
            attributes.update(usage.attributes())
            attributes[MODELFORGE_USAGE_ESTIMATED] = True
        if usage is not None and (reference := model.reference_price(usage)) is not None:
            attributes[MODELFORGE_USAGE_REFERENCE_COST] = reference
        if cost is not None:
            attributes.update(cost_attributes(cost, response))
        return attributes


def cost_attributes(cost: float, response: Response) -> dict[str, AttributeValue]:
    """Return the attributes for the cost of a call, in US dollars.

    They follow the draft convention of open-telemetry/semantic-conventions-genai#443.
    """
    return {
        GEN_AI_USAGE_COST_AMOUNT: cost,
        GEN_AI_USAGE_COST_CURRENCY: "USD",
        GEN_AI_USAGE_COST_SOURCE: "local" if response.cost is None else "provider",
    }


def stream_attributes(chunks: int, time_to_first_chunk: float | None) -> dict[str, AttributeValue]:
    """Return the attributes of a stream.

    :param time_to_first_chunk: in seconds; None if no chunk arrived.
    """
    attributes: dict[str, AttributeValue] = {
        gen_ai.GEN_AI_REQUEST_STREAM: True,
        MODELFORGE_RESPONSE_CHUNK_COUNT: chunks,
    }
    if time_to_first_chunk is not None:
        attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = time_to_first_chunk
    return attributes
