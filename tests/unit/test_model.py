"""Which model a span is about: names, server and what is kept to itself."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry_instrumentation_modelforge.identity import ModelIdentity, provider_name
from pydantic import SecretStr

PROVIDER_NAMES = {
    "openai": "openai",
    "anthropic": "anthropic",
    "deepseek": "deepseek",
    "groq": "groq",
    "cohere": "cohere",
    "perplexity": "perplexity",
    "google": "gcp.gemini",
    "gemini": "gcp.gemini",
    "vertex_ai": "gcp.vertex_ai",
    "google-vertex": "gcp.vertex_ai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "amazon-bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "xai": "x_ai",
    "XAI": "x_ai",
    "watsonx": "ibm.watsonx.ai",
    # The conventions have no value for these.
    "ollama": "ollama",
    "github_copilot": "github_copilot",
    "openrouter": "openrouter",
    "My-Gateway": "My-Gateway",
}

SERVERS = {
    "https://api.example.com": ("api.example.com", 443),
    "http://api.example.com/v1": ("api.example.com", 80),
    "https://api.example.com:8443/v1/": ("api.example.com", 8443),
    "HTTPS://API.Example.com": ("api.example.com", 443),
    "http://127.0.0.1:11434": ("127.0.0.1", 11434),
    "http://[::1]:11434": ("::1", 11434),
    "localhost:11434": ("localhost", 11434),
    "localhost": ("localhost", None),
    "https://user:secret@host:99/v1?api_key=secret#secret": ("host", 99),
    "//host": ("host", None),
}


def identity(provider_data: dict[str, Any], model_data: dict[str, Any] | None = None) -> ModelIdentity:
    return ModelIdentity.from_config("acme", "fast", provider_data, model_data or {})


@pytest.mark.parametrize("name", PROVIDER_NAMES)
def test_the_providers_name_is_the_conventions_where_they_have_one(name: str) -> None:
    assert provider_name(name) == PROVIDER_NAMES[name]


@pytest.mark.parametrize("url", SERVERS)
def test_the_server_is_read_off_the_base_url(url: str) -> None:
    found = identity({"llm_type": "ollama", "base_url": url})
    assert (found.server_address, found.server_port) == SERVERS[url]


@pytest.mark.parametrize(
    ("llm_type", "server"),
    [
        ("openai_compatible", ("api.openai.com", 443)),
        ("google_genai", ("generativelanguage.googleapis.com", 443)),
        ("github_copilot", ("api.githubcopilot.com", 443)),
        ("ollama", (None, None)),
    ],
)
@pytest.mark.parametrize("base_url", [None, "", 5, "http://host:port", "http://[::1", "https://"])
def test_without_a_usable_base_url_the_server_is_the_clients_default(
    llm_type: str, server: tuple[str | None, int | None], base_url: object
) -> None:
    found = identity({"llm_type": llm_type, "base_url": base_url})
    assert (found.server_address, found.server_port) == server


def test_the_requested_model_is_the_one_sent_to_the_api() -> None:
    assert identity({}).api_model == "fast"
    assert identity({}, {"api_model_name": "fast-2024-08-06"}).api_model == "fast-2024-08-06"


def test_both_spans_carry_modelforges_names_and_the_conventions() -> None:
    found = ModelIdentity.from_config(
        "google",
        "gemini",
        {"llm_type": "google_genai", "base_url": "https://user:secret@host/v1"},
        {"api_model_name": "gemini-2.5-flash"},
    )
    conventions = {
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "server.address": "host",
        "server.port": 443,
    }
    assert found.metric_attributes() == conventions
    assert found.attributes() == {
        "modelforge.provider": "google",
        "modelforge.model": "gemini",
        "modelforge.llm_type": "google_genai",
        **conventions,
    }


def test_what_is_unknown_has_no_attribute() -> None:
    assert ModelIdentity("acme", "fast").attributes() == {
        "modelforge.provider": "acme",
        "modelforge.model": "fast",
        "gen_ai.provider.name": "acme",
        "gen_ai.request.model": "fast",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"root_client": SimpleNamespace(base_url=httpx.URL("http://client:1/v1/"))},
        {"base_url": "http://client:1"},
        {"client": "http://client:1/chat/completions"},
        {"client": SimpleNamespace(transport=SimpleNamespace(host="client:1"))},
    ],
    ids=["ChatOpenAI", "ChatOllama", "ChatGitHubCopilot", "ChatGoogleGenerativeAI"],
)
def test_the_server_is_where_the_built_client_sends_its_requests(fields: dict[str, Any]) -> None:
    found = identity({"llm_type": "openai_compatible"}).of_client(SimpleNamespace(**fields))
    assert (found.server_address, found.server_port) == ("client", 1)


def test_a_client_that_does_not_tell_leaves_the_server_of_the_configuration() -> None:
    configured = identity({"llm_type": "openai_compatible", "base_url": "http://configured:2"})
    found = configured.of_client(SimpleNamespace(client=object(), root_client=None))
    assert (found.server_address, found.server_port) == ("configured", 2)


def test_a_client_that_is_a_mock_leaves_the_server_of_the_configuration() -> None:
    class Mock:
        def __getattr__(self, name: str) -> Mock:
            return self

    configured = identity({"llm_type": "openai_compatible", "base_url": "http://configured:2"})
    found = configured.of_client(SimpleNamespace(client=Mock(), root_client=Mock()))
    assert (found.server_address, found.server_port) == ("configured", 2)


def test_credentials_are_neither_shown_nor_pickled() -> None:
    found = identity({"base_url": "https://user:hunter2hunter2@host"}).of_client(
        SimpleNamespace(openai_api_key=SecretStr("hunter3hunter3"))
    )
    assert found.secrets == ("hunter3hunter3",)
    assert "hunter" not in repr(found)
    assert b"hunter" not in pickle.dumps(found)
    assert pickle.loads(pickle.dumps(found)).attributes() == found.attributes()


@given(st.text())
def test_any_base_url_can_be_read(url: str) -> None:
    found = identity({"llm_type": "openai_compatible", "base_url": url})
    assert isinstance(found.server_address, str)
    assert found.server_port is None or 0 < found.server_port < 65536
