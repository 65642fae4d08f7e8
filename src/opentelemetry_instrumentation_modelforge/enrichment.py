# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A call whose span another GenAI instrumentation creates: details that only ModelForge has are added to that span."""

from typing import Final

from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from .call import Call, open_calls
from .coexistence import OuterInference, publish
from .ending import Ending, cost_attributes
from .model import Model
from .otel_utils import Guard
from .request import Request
from .response import NO_RESPONSE, Response
from .semconv import MODELFORGE_RESPONSE_CACHED

_REPORT_GUARD: Final = Guard("reporting to another instrumentation")


class Enrichment(Call):
    """A call whose span another GenAI instrumentation creates. It adds the details that only ModelForge has."""

    __slots__ = ("_caller", "_outer")

    def __init__(self, model: Model, request: Request, outer: OuterInference) -> None:
        super().__init__(model, request)
        self._outer = outer
        self._caller = get_current()

    def start(self) -> None:
        """Open the call, and report the names of its model."""
        try:
            open_calls[id(self)] = self
            self._publish(NO_RESPONSE)
        except BaseException:
            open_calls.pop(id(self), None)
            raise

    def chunk(self, chunk: object) -> None:
        """Report a stream's usage as it arrives: the other instrumentation ends its span before the call ends."""
        with _REPORT_GUARD:
            self.answer.add_chunk(chunk)
            # Ollama's usage is in the chunk's generation_info.
            if getattr(getattr(chunk, "message", None), "usage_metadata", None) or getattr(
                chunk, "generation_info", None
            ):
                self._publish(self.answer.response((chunk,), None))

    def _finish(self, ending: Ending) -> None:
        with _REPORT_GUARD:
            response = self.answer.response(ending.generations, ending.llm_output)
            cost = self._publish(response)
            if cost is not None:
                # The other instrumentation has no such metric.
                base = self._model.metric_attributes_of(self._request, self._caller)
                attributes = self._model.metric_attribute_sets(base, response.model).call
                span = get_current_span(self._caller).get_span_context()
                self._model.telemetry.cost.record(cost, attributes, span)

    def _publish(self, response: Response) -> float | None:
        """Report what is known so far, and return the cost of the call in US dollars."""
        cost = self._model.price(response)
        data = self._outer.data()
        if data is not None:
            publish(data, response)
            data.attributes.update(self._model.modelforge_attributes)
            data.attributes.update(self._model.copied_attributes(self._request, self._caller))
            if cost is not None:
                data.attributes.update(cost_attributes(cost, response))
            if response.cached:
                data.attributes[MODELFORGE_RESPONSE_CACHED] = True
        return cost
