# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""One model as ``get_llm`` resolved it, with everything that all of its calls share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import environ
from typing import Final, NamedTuple, Self

from opentelemetry.baggage import get_baggage
from opentelemetry.context import Context
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import server_attributes
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util.types import AttributeValue

from .block_attributes import NO_BLOCK, BlockAttributes, current_block
from .cost import CostFunction, Rates, reference_rates, resolve_rates
from .otel_utils import Guard
from .providers import Provider, provider_of
from .redaction import secret_values, without_credentials, worth_hiding
from .request import Request
from .response import Response, Usage
from .semconv import (
    MODELFORGE_API_MODEL,
    MODELFORGE_LLM_TYPE,
    MODELFORGE_MODEL,
    MODELFORGE_PROVIDER,
    OPERATION_CHAT,
    SPAN_INVOKE,
    TOKEN_INPUT,
    TOKEN_OUTPUT,
)
from .server import server_of
from .telemetry import Telemetry
from .values import encodable, mapping, text

Attributes = Mapping[str, AttributeValue]

# ModelForge's names for which the GenAI conventions have another one. The rest are the same or have no equivalent.
_WELL_KNOWN_PROVIDERS: Final = {
    "google": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "gemini": "gcp.gemini",
    "google_vertex": "gcp.vertex_ai",
    "vertex": "gcp.vertex_ai",
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_ai_inference": "azure.ai.inference",
    "amazon_bedrock": "aws.bedrock",
    "aws_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "ibm_watsonx": "ibm.watsonx.ai",
    "watsonx": "ibm.watsonx.ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "moonshot": "moonshot_ai",
    "moonshotai": "moonshot_ai",
    "xai": "x_ai",
}

_SHORTEST_KEY: Final = 16

# An application may send any number of names, and a provider may return any number.
_MOST_VARIANTS: Final = 32

_RATES_GUARD: Final = Guard("resolving a model's price")


def provider_name(provider: str) -> str:
    """Return the GenAI conventions' ``gen_ai.provider.name`` for ModelForge's provider, else ModelForge's own name."""
    return _WELL_KNOWN_PROVIDERS.get(provider.lower().replace("-", "_"), provider)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The names of a model and of its server. It can be pickled, and compares by value."""

    provider: str
    """ModelForge's name for the provider."""
    model: str
    """ModelForge's alias for the model."""
    llm_type: str | None = None
    """ModelForge's client type: ``openai_compatible``, ``ollama``, ``google_genai`` or ``github_copilot``."""
    api_model: str = ""
    """The name sent to the API."""
    server_address: str | None = None
    server_port: int | None = None
    base_url: str | None = field(default=None, repr=False)
    """As configured. It may contain credentials, so it is never emitted."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """The model's own credentials, which are removed from every text."""

    @classmethod
    def from_config(
        cls, provider: str, model: str, provider_data: Mapping[str, object], model_data: Mapping[str, object]
    ) -> Self:
        """Return the identity of the model that ``ModelForgeRegistry._get_model_config`` found."""
        llm_type = text(provider_data.get("llm_type"))
        kind = provider_of(llm_type)
        base_url = text(provider_data.get("base_url"))
        secrets = _configured_secrets(provider, provider_data)
        server_address, server_port = server_of(base_url, secrets) or kind.default_server or (None, None)
        api_model = kind.api_model(model, model_data)
        return cls(provider, model, llm_type, api_model, server_address, server_port, base_url, secrets)

    def of_client(self, client: object) -> Self:
        """Return this identity with the server and the credentials that the built client actually uses.

        :param client: the LangChain model that calls the provider.
        """
        fields = vars(client)
        kind = provider_of(self.llm_type)
        secrets = worth_hiding((*secret_values(kind.client_credentials(fields)), *self.secrets))
        base_url = kind.client_url(fields) or self.base_url
        server_address, server_port = server_of(base_url, secrets) or (self.server_address, self.server_port)
        return replace(self, server_address=server_address, server_port=server_port, base_url=base_url, secrets=secrets)

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the attributes of the ``get_llm`` span.

        The name sent to the API is not ``gen_ai.request.model`` there: backends treat a span with that attribute as a
        model call.
        """
        attributes = self.modelforge_attributes() | self.inference_attributes()
        attributes[MODELFORGE_API_MODEL] = attributes.pop(gen_ai.GEN_AI_REQUEST_MODEL)
        return attributes

    def modelforge_attributes(self) -> dict[str, AttributeValue]:
        """Return the attributes with ModelForge's own names."""
        return self._without_credentials(
            {MODELFORGE_PROVIDER: self.provider, MODELFORGE_MODEL: self.model, MODELFORGE_LLM_TYPE: self.llm_type}
        )

    def inference_attributes(self) -> dict[str, AttributeValue]:
        """Return the conventions' attributes, whose cardinality is low enough for metrics."""
        return self._without_credentials(
            {
                gen_ai.GEN_AI_PROVIDER_NAME: provider_name(self.provider),
                gen_ai.GEN_AI_REQUEST_MODEL: self.api_model or self.model,
                server_attributes.SERVER_ADDRESS: self.server_address,
                server_attributes.SERVER_PORT: self.server_port,
            }
        )

    def _without_credentials(self, values: Mapping[str, str | int | None]) -> dict[str, AttributeValue]:
        # A key may have been entered in place of a name. A short one may be a placeholder for a server without keys,
        # and equal to a real name.
        secrets = tuple(secret for secret in self.secrets if len(secret) >= _SHORTEST_KEY)
        return {
            name: without_credentials(value, secrets) if isinstance(value, str) else value
            for name, value in values.items()
            if value is not None
        }

    def __reduce__(self) -> tuple[type[Self], tuple[str | int | None, ...]]:
        # A pickle may leave the process, so it must not contain credentials.
        names = (self.provider, self.model, self.llm_type, self.api_model, self.server_address, self.server_port)
        return type(self), names


class MetricAttributes(NamedTuple):
    """The attribute sets of the metrics of one call."""

    base: Attributes
    """Without the model that answered."""
    call: Attributes
    input_tokens: Attributes
    output_tokens: Attributes


class Model:
    """One model under one ``instrument()``, with everything that all of its calls share.

    :param telemetry: where its calls are recorded.
    :param identity: its names.
    :param created_by: the ``get_llm`` span, which every call links to.
    :param pricing: the models.dev metadata of the model.
    :param block: attributes for every call, which override the configuration's.
    :param operation: the conventions' operation name.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        identity: ModelIdentity,
        *,
        created_by: SpanContext | None = None,
        pricing: Mapping[str, object] | None = None,
        block: BlockAttributes = NO_BLOCK,
        operation: str = OPERATION_CHAT,
    ) -> None:
        configuration = telemetry.configuration
        self.telemetry = telemetry
        self.identity = identity
        self.kind: Provider = provider_of(identity.llm_type)
        self.operation = operation
        self._created_by = created_by
        self._pricing = pricing
        self._block = block
        self.links = [Link(created_by)] if created_by is not None and created_by.is_valid else None
        self.every_chunk = configuration.chunk_events == "all"
        inference: Attributes = {gen_ai.GEN_AI_OPERATION_NAME: operation, **identity.inference_attributes()}
        model = inference[gen_ai.GEN_AI_REQUEST_MODEL]
        self.span_name = f"{operation} {model}" if configuration.span_names == "semconv" else SPAN_INVOKE
        self.modelforge_attributes: Attributes = {
            **configuration.attributes,
            **identity.modelforge_attributes(),
            **block.spans,
        }
        self.attributes: Attributes = {**self.modelforge_attributes, **inference, **block.spans}
        self.metric_attributes: Attributes = {**configuration.metric_attributes, **inference, **block.metrics}
        self.rates: Rates | None = None
        self.reference_rates: Rates | None = None
        with _RATES_GUARD:
            self._resolve_rates()
        self._with_copied: dict[tuple[tuple[str, AttributeValue], ...], Attributes] = {}
        self._metric_attribute_sets: dict[tuple[int, str | None], MetricAttributes] = {}
        self._variants: dict[tuple[str, str], Model] = {}

    def price(self, response: Response) -> float | None:
        """Return the cost of a call with this response, in US dollars; None if it is unknown or switched off."""
        if not self.telemetry.configuration.cost or response.cached:
            return None
        if response.cost is not None:
            return response.cost
        if self.rates is None or response.usage is None:
            return None
        return self.rates.price(response.usage, response.service_tier)

    def reference_price(self, usage: Usage) -> float | None:
        """Return the notional cost that ModelForge prints for a model without a price, in US dollars."""
        return None if self.reference_rates is None else self.reference_rates.price(usage)

    def copied_attributes(self, request: Request, caller: Context) -> dict[str, AttributeValue]:
        """Return the attributes that the enclosing blocks and the options copy onto the model span."""
        configuration = self.telemetry.configuration
        return {
            **current_block(caller).spans,
            **baggage_attributes(configuration.baggage_keys, caller),
            **request.metadata_attributes(configuration.metadata_keys),
        }

    def metric_attributes_of(self, request: Request, caller: Context) -> Attributes:
        """Return the attributes of a call's metrics. Equal ones share an object, since waiting measurements hold it."""
        configuration = self.telemetry.configuration
        block = current_block(caller)
        if not (block.metrics or configuration.metric_baggage_keys or configuration.metric_metadata_keys):
            return self.metric_attributes
        copied = {
            **block.metrics,
            **baggage_attributes(configuration.metric_baggage_keys, caller),
            **request.metadata_attributes(configuration.metric_metadata_keys),
        }
        key = tuple(copied.items())
        found = self._with_copied.get(key)
        if found is None:
            found = {**self.metric_attributes, **copied}
            if len(self._with_copied) < _MOST_VARIANTS:
                self._with_copied[key] = found
        return found

    def metric_attribute_sets(self, base: Attributes, response_model: str | None) -> MetricAttributes:
        """Return the attributes of a call's metrics.

        :param base: the call's own, from :meth:`metric_attributes_of`.
        :param response_model: the model that answered.
        """
        found = self._metric_attribute_sets.get((id(base), response_model))
        # The id may be that of an object that no longer exists.
        if found is None or found.base is not base:
            call = base if response_model is None else {**base, gen_ai.GEN_AI_RESPONSE_MODEL: response_model}
            inputs, outputs = ({**call, gen_ai.GEN_AI_TOKEN_TYPE: kind} for kind in (TOKEN_INPUT, TOKEN_OUTPUT))
            found = MetricAttributes(base, call, inputs, outputs)
            if len(self._metric_attribute_sets) < _MOST_VARIANTS:
                self._metric_attribute_sets[id(base), response_model] = found
        return found

    def variant(self, operation: str, api_model: str | None) -> "Model":
        """Return the variant of this model for calls with another model name or another operation."""
        api_model = api_model or self.identity.api_model
        if api_model == self.identity.api_model and operation == self.operation:
            return self
        found = self._variants.get((operation, api_model))
        if found is None:
            found = Model(
                self.telemetry,
                replace(self.identity, api_model=api_model),
                created_by=self._created_by,
                pricing=self._pricing if api_model == self.identity.api_model else None,
                block=self._block,
                operation=operation,
            )
            if len(self._variants) < _MOST_VARIANTS:
                self._variants[operation, api_model] = found
        return found

    def _resolve_rates(self) -> None:
        cost = self.telemetry.configuration.cost
        identity = self.identity
        if callable(cost):
            self.rates = CostFunction(cost, identity.provider, identity.api_model)
        elif cost and self.kind.paid_by_token:
            self.rates = resolve_rates(
                identity.provider, identity.api_model, api_base=identity.base_url, metadata=self._pricing
            )
        elif cost and self.kind.has_reference_cost:
            self.reference_rates = reference_rates(identity.api_model)


def baggage_attributes(keys: Sequence[str], context: Context | None = None) -> dict[str, AttributeValue]:
    """Return the baggage entries with these names in ``context``, or in the current one, as attributes."""
    return {key: encodable(str(value)) for key in keys if (value := get_baggage(key, context)) is not None}


def _configured_secrets(provider: str, provider_data: Mapping[str, object]) -> tuple[str, ...]:
    """Return the credentials that ModelForge would use, for a ``get_llm`` that fails before a client exists."""
    stored = mapping(provider_data.get("auth_data"))
    prefix = f"MODELFORGE_{provider.upper().replace('-', '_')}_"
    return worth_hiding(
        (
            *(stored.get(name) for name in ("api_key", "access_token", "refresh_token", "client_secret")),
            *(environ.get(prefix + kind) for kind in ("API_KEY", "ACCESS_TOKEN")),
        )
    )
