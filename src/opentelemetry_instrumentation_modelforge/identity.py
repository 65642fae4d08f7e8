"""Which model this is: its provider, names and server."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import environ
from typing import Final, Self, cast
from urllib.parse import urlsplit

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import server_attributes
from opentelemetry.util.types import AttributeValue

from .otel_utils import encodable
from .redaction import secret_values, worth_hiding
from .semconv import MODELFORGE_LLM_TYPE, MODELFORGE_MODEL, MODELFORGE_PROVIDER

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
"""ModelForge's names where the GenAI conventions have another one; the rest are the same or have none."""

_SERVERS: Final = {
    "openai_compatible": ("api.openai.com", 443),
    "google_genai": ("generativelanguage.googleapis.com", 443),
    "github_copilot": ("api.githubcopilot.com", 443),
}
"""Where each llm_type's client goes when nobody says otherwise."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """One model as ``get_llm`` resolved it."""

    provider: str
    """ModelForge's name of the provider."""
    model: str
    """ModelForge's alias of the model."""
    llm_type: str | None = None
    """ModelForge's kind of client: ``openai_compatible``, ``ollama``, ``google_genai`` or ``github_copilot``."""
    api_model: str = ""
    """The name sent to the API; the alias unless the configuration has an ``api_model_name``."""
    server_address: str | None = None
    server_port: int | None = None
    base_url: str | None = field(default=None, repr=False)
    """As configured; may hold credentials, so it is never emitted."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """The model's own credentials, to be kept out of every text."""

    @classmethod
    def from_config(
        cls, provider: str, model: str, provider_data: Mapping[str, object], model_data: Mapping[str, object]
    ) -> Self:
        """Build it from what ``ModelForgeRegistry._get_model_config`` returns."""
        llm_type = _text(provider_data.get("llm_type"))
        base_url = _text(provider_data.get("base_url"))
        server_address, server_port = _server(base_url) or _SERVERS.get(llm_type or "", (None, None))
        return cls(
            provider=provider,
            model=model,
            llm_type=llm_type,
            api_model=_text(model_data.get("api_model_name")) or model,
            server_address=server_address,
            server_port=server_port,
            base_url=base_url,
            secrets=_configured_secrets(provider, provider_data),
        )

    def of_client(self, llm: object) -> Self:
        """Return this identity with the server and the credentials that the built client really uses."""
        fields = vars(llm)
        base_url = _client_url(fields) or self.base_url
        server_address, server_port = _server(base_url) or (self.server_address, self.server_port)
        return replace(
            self,
            server_address=server_address,
            server_port=server_port,
            base_url=base_url,
            secrets=worth_hiding((*secret_values(fields.values()), *self.secrets)),
        )

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the attributes both spans carry."""
        return self.modelforge_attributes() | self.metric_attributes()

    def modelforge_attributes(self) -> dict[str, AttributeValue]:
        """Return ModelForge's own part of it."""
        return {
            name: encodable(value)
            for name, value in (
                (MODELFORGE_PROVIDER, self.provider),
                (MODELFORGE_MODEL, self.model),
                (MODELFORGE_LLM_TYPE, self.llm_type),
            )
            if value is not None
        }

    def metric_attributes(self) -> dict[str, AttributeValue]:
        """Return the conventions' own part of it, low enough in cardinality for metrics."""
        return {
            name: encodable(value) if isinstance(value, str) else value
            for name, value in (
                (gen_ai.GEN_AI_PROVIDER_NAME, provider_name(self.provider)),
                (gen_ai.GEN_AI_REQUEST_MODEL, self.api_model or self.model),
                (server_attributes.SERVER_ADDRESS, self.server_address),
                (server_attributes.SERVER_PORT, self.server_port),
            )
            if value is not None
        }

    def __reduce__(self) -> tuple[type[Self], tuple[str | int | None, ...]]:
        # A pickle travels: the credentials stay where they were resolved.
        return type(self), (
            self.provider,
            self.model,
            self.llm_type,
            self.api_model,
            self.server_address,
            self.server_port,
        )


def provider_name(provider: str) -> str:
    """Return the GenAI conventions' value of ``gen_ai.provider.name`` for ModelForge's provider, else its own name."""
    return _WELL_KNOWN_PROVIDERS.get(provider.lower().replace("-", "_"), provider)


def _client_url(fields: Mapping[str, object]) -> str | None:
    """Return where a built client sends its requests, from the fields each kind of model keeps it in."""
    client = fields.get("client")
    # An httpx.URL; a test's mock of a client has every attribute, and none of them is text.
    root_url = getattr(fields.get("root_client"), "base_url", None)
    for url in (
        str(root_url) if isinstance(getattr(root_url, "host", None), str) else None,  # ChatOpenAI
        fields.get("base_url"),  # ChatOllama
        client,  # ChatGitHubCopilot
        getattr(getattr(client, "transport", None), "host", None),  # ChatGoogleGenerativeAI
    ):
        if isinstance(url, str) and url:
            return url
    return None


def _configured_secrets(provider: str, provider_data: Mapping[str, object]) -> tuple[str, ...]:
    """Return the credentials ModelForge would use, for a ``get_llm`` that fails before there is a client."""
    data = provider_data.get("auth_data")
    stored = cast("dict[str, object]", data) if isinstance(data, dict) else {}
    prefix = f"MODELFORGE_{provider.upper().replace('-', '_')}_"
    return worth_hiding(
        (
            *(stored.get(name) for name in ("api_key", "access_token", "refresh_token", "client_secret")),
            *(environ.get(prefix + kind) for kind in ("API_KEY", "ACCESS_TOKEN")),
        )
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _server(url: str | None) -> tuple[str, int | None] | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        return (parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)) if parts.hostname else None
    except ValueError:
        return None
