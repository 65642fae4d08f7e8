"""What all calls of one model have in common, made once so that a call does not make it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from opentelemetry.baggage import get_baggage
from opentelemetry.context import Context
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util.types import AttributeValue

from .cost import CostFunction, Rates, reference_rates, resolve_rates
from .identity import ModelIdentity
from .otel_utils import Guard, encodable
from .response import Response
from .semconv import OPERATION_CHAT, SPAN_INVOKE
from .telemetry import Telemetry

# What an application may make up at run time gets no more templates than this.
_MOST_MODELS: Final = 32

_RATES: Final = Guard("resolving a model's price")


class CallTemplate:
    """What all calls of one model have in common, made once."""

    __slots__ = (
        "_models",
        "attributes",
        "every_chunk",
        "identity",
        "links",
        "metric_attributes",
        "modelforge_attributes",
        "operation",
        "pricing",
        "rates",
        "reference_rates",
        "span_name",
        "telemetry",
    )

    def __init__(
        self,
        telemetry: Telemetry,
        identity: ModelIdentity,
        *,
        created_by: SpanContext | None = None,
        pricing: Mapping[str, object] | None = None,
        operation: str = OPERATION_CHAT,
    ) -> None:
        configuration = telemetry.configuration
        self.telemetry = telemetry
        self.identity = identity
        self.pricing = pricing
        self.operation = operation
        self.links = [Link(created_by)] if created_by is not None and created_by.is_valid else None
        self.span_name = f"{operation} {identity.api_model}" if configuration.span_names == "semconv" else SPAN_INVOKE
        self.every_chunk = configuration.chunk_events == "all"
        self.modelforge_attributes: dict[str, AttributeValue] = {
            **configuration.attributes,
            **identity.modelforge_attributes(),
        }
        self.attributes: dict[str, AttributeValue] = {
            **self.modelforge_attributes,
            gen_ai.GEN_AI_OPERATION_NAME: operation,
            **identity.metric_attributes(),
        }
        self.metric_attributes: dict[str, AttributeValue] = {
            **configuration.metric_attributes,
            gen_ai.GEN_AI_OPERATION_NAME: operation,
            **identity.metric_attributes(),
        }
        self.rates: Rates | None = None
        self.reference_rates: Rates | None = None
        with _RATES:
            self._resolve_rates()
        self._models: dict[tuple[str, str], CallTemplate] = {}

    def amount(self, response: Response) -> float | None:
        """Return what a call with this response cost, in US dollars; None where nobody knows or nobody asked."""
        if not self.telemetry.configuration.cost or response.cached:
            return None
        if response.cost is not None:
            return response.cost
        return self.rates.price(response.usage) if self.rates is not None and response.usage is not None else None

    def baggage_attributes(self, context: Context) -> dict[str, AttributeValue]:
        """Return the baggage entries that the configuration copies onto spans."""
        return baggage_attributes(self.telemetry.configuration.baggage_keys, context)

    def metric_attributes_in(self, context: Context) -> dict[str, AttributeValue]:
        """Return the attributes of metrics recorded in ``context``."""
        if not self.telemetry.configuration.metric_baggage_keys:
            return self.metric_attributes
        return self.metric_attributes | baggage_attributes(self.telemetry.configuration.metric_baggage_keys, context)

    def _resolve_rates(self) -> None:
        cost = self.telemetry.configuration.cost
        identity = self.identity
        if callable(cost):
            self.rates = CostFunction(cost, identity.provider, identity.api_model)
        elif cost and identity.llm_type == "github_copilot":
            self.reference_rates = reference_rates(identity.api_model)
        elif cost and identity.llm_type != "ollama":
            self.rates = resolve_rates(
                identity.provider, identity.api_model, api_base=identity.base_url, metadata=self.pricing
            )

    def of(self, operation: str, model: str | None) -> "CallTemplate":
        """Return the template of this model's calls that send another model name or do another operation."""
        if (model is None or model == self.identity.api_model) and operation == self.operation:
            return self
        model = model or self.identity.api_model
        template = self._models.get((operation, model))
        if template is None:
            same = model == self.identity.api_model
            template = CallTemplate(
                self.telemetry,
                replace(self.identity, api_model=model),
                created_by=self.links[0].context if self.links else None,
                pricing=self.pricing if same else None,
                operation=operation,
            )
            if len(self._models) < _MOST_MODELS:
                self._models[operation, model] = template
        return template


def baggage_attributes(keys: Sequence[str], context: Context | None = None) -> dict[str, AttributeValue]:
    """Return the baggage entries of these names in ``context``, or in the current one, as attributes."""
    return {key: encodable(str(value)) for key in keys if (value := get_baggage(key, context)) is not None}
