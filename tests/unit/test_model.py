# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""One model: its names, its server, and the data that all its calls share."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags
from pydantic import SecretStr

from opentelemetry_instrumentation_modelforge import model as model_module
from opentelemetry_instrumentation_modelforge.config import Configuration
from opentelemetry_instrumentation_modelforge.model import Model, ModelIdentity, baggage_attributes, provider_name
from opentelemetry_instrumentation_modelforge.request import Request
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from opentelemetry_instrumentation_modelforge.telemetry import Telemetry

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
    # The conventions define no value for these.
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
def test_the_providers_name_is_that_of_the_conventions_if_defined(name: str) -> None:
    assert provider_name(name) == PROVIDER_NAMES[name]


@pytest.mark.parametrize("url", SERVERS)
def test_the_server_is_taken_from_the_base_url(url: str) -> None:
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


CONVENTIONS = {"gen_ai.provider.name": "gcp.gemini", "server.address": "host", "server.port": 443}


def test_spans_carry_modelforges_names_and_the_conventions() -> None:
    found = ModelIdentity.from_config(
        "google",
        "gemini",
        {"llm_type": "google_genai", "base_url": "https://user:secret@host/v1"},
        {"api_model_name": "gemini-2.5-flash"},
    )
    names = {
        "modelforge.provider": "google",
        "modelforge.model": "gemini",
        "modelforge.llm_type": "google_genai",
    }
    assert found.modelforge_attributes() == names
    assert found.inference_attributes() == {**CONVENTIONS, "gen_ai.request.model": "gemini-2.5-flash"}
    # Backends treat a span with gen_ai.request.model as a model call.
    assert found.attributes() == {**names, **CONVENTIONS, "modelforge.api_model": "gemini-2.5-flash"}


def test_unknown_values_have_no_attribute() -> None:
    assert ModelIdentity("acme", "fast").attributes() == {
        "modelforge.provider": "acme",
        "modelforge.model": "fast",
        "gen_ai.provider.name": "acme",
        "modelforge.api_model": "fast",
    }


def test_a_name_that_utf8_cannot_encode_is_made_exportable() -> None:
    found = ModelIdentity("a\ud800", "fast", api_model="b\ud800").attributes()
    assert (found["modelforge.provider"], found["modelforge.api_model"]) == ("a\ufffd", "b\ufffd")


@pytest.mark.parametrize(
    ("llm_type", "fields"),
    [
        ("openai_compatible", {"root_client": SimpleNamespace(base_url=httpx.URL("http://client:1/v1/"))}),
        ("ollama", {"base_url": "http://client:1"}),
        ("github_copilot", {"client": "http://client:1/chat/completions"}),
        ("google_genai", {"client": SimpleNamespace(transport=SimpleNamespace(host="client:1"))}),
    ],
)
def test_the_server_is_the_one_to_which_the_built_client_sends_its_requests(
    llm_type: str, fields: dict[str, Any]
) -> None:
    found = identity({"llm_type": llm_type, "base_url": "http://configured:2"}).of_client(SimpleNamespace(**fields))
    assert (found.server_address, found.server_port) == ("client", 1)


def test_a_client_without_a_url_keeps_the_server_of_the_configuration() -> None:
    configured = identity({"llm_type": "openai_compatible", "base_url": "http://configured:2"})
    found = configured.of_client(SimpleNamespace(client=object(), root_client=None))
    assert (found.server_address, found.server_port) == ("configured", 2)


def test_a_client_that_is_a_mock_keeps_the_server_of_the_configuration() -> None:
    class Mock:
        def __getattr__(self, name: str) -> Mock:
            return self

    configured = identity({"llm_type": "openai_compatible", "base_url": "http://configured:2"})
    found = configured.of_client(SimpleNamespace(client=Mock(), root_client=Mock()))
    assert (found.server_address, found.server_port) == ("configured", 2)


def test_credentials_are_neither_shown_nor_pickled() -> None:
    provider_data = {"llm_type": "openai_compatible", "base_url": "https://user:hunter2hunter2@host"}
    found = identity(provider_data).of_client(SimpleNamespace(openai_api_key=SecretStr("hunter3hunter3")))
    assert found.secrets == ("hunter3hunter3",)
    assert "hunter" not in repr(found)
    assert b"hunter" not in pickle.dumps(found)
    assert pickle.loads(pickle.dumps(found)).attributes() == found.attributes()


@given(st.text())
def test_any_base_url_can_be_read(url: str) -> None:
    found = identity({"llm_type": "openai_compatible", "base_url": url})
    assert isinstance(found.server_address, str)
    assert found.server_port is None or 0 < found.server_port < 65536


def test_an_identity_compares_by_value_and_a_pickle_of_it_keeps_the_names() -> None:
    found = identity({"llm_type": "ollama", "base_url": "http://host:1"}, {"api_model_name": "other"})
    assert found == identity({"llm_type": "ollama", "base_url": "http://host:1"})
    assert pickle.loads(pickle.dumps(found)) == ModelIdentity("acme", "fast", "ollama", "fast", "host", 1)


@pytest.mark.parametrize("name", ["API_KEY", "ACCESS_TOKEN"])
def test_a_key_in_modelforges_variable_is_known_before_there_is_a_client(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MODELFORGE_ACME_{name}", "key-in-a-variable")
    assert identity({}).secrets == ("key-in-a-variable",)


def test_stored_credentials_are_known_before_there_is_a_client() -> None:
    stored = {"api_key": "the-stored-key", "refresh_token": "the-refresh-token", "expires_at": "2999-01-01T00:00:00"}
    assert identity({"auth_data": stored}).secrets == ("the-refresh-token", "the-stored-key")


# --- Model ---

OPENAI = ModelIdentity("openai", "mini", "openai_compatible", "gpt-4o-mini", "api.openai.com", 443)
COPILOT = ModelIdentity("github_copilot", "gpt-4o", "github_copilot", "gpt-4o")
CREATED_BY = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
USAGE = Usage(1000, 500)


def model_of(identity: ModelIdentity = OPENAI, options: dict[str, Any] | None = None, **keywords: Any) -> Model:
    return Model(Telemetry(Configuration(**(options or {}))), identity, **keywords)


def test_a_models_calls_share_their_attributes() -> None:
    model = model_of(options={"attributes": {"team": "ml"}, "metric_attributes": {"region": "eu"}})
    inference = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "server.address": "api.openai.com",
        "server.port": 443,
    }
    modelforge = {
        "modelforge.provider": "openai",
        "modelforge.model": "mini",
        "modelforge.llm_type": "openai_compatible",
    }
    assert model.modelforge_attributes == {"team": "ml", **modelforge}
    assert model.attributes == {"team": "ml", **modelforge, **inference}
    assert model.metric_attributes == {"region": "eu", **inference}


def test_a_users_attribute_does_not_replace_one_of_the_models() -> None:
    model = model_of(options={"attributes": {"modelforge.model": "x"}, "metric_attributes": {"server.port": 1}})
    assert model.attributes["modelforge.model"] == "mini"
    assert model.metric_attributes["server.port"] == 443


@pytest.mark.parametrize(("span_names", "name"), [("default", "langchain.llm.invoke"), ("semconv", "chat gpt-4o-mini")])
def test_the_spans_name_is_the_fixed_one_or_the_conventions(span_names: str, name: str) -> None:
    assert model_of(options={"span_names": span_names}).span_name == name


def test_every_call_links_to_the_span_that_created_the_model() -> None:
    links = model_of(created_by=CREATED_BY).links
    assert links is not None
    assert [link.context for link in links] == [CREATED_BY]
    assert model_of().links is None
    assert model_of(created_by=SpanContext(0, 0, is_remote=False)).links is None


def test_tokens_of_each_direction_have_their_own_attributes() -> None:
    model = model_of()
    sets = model.metric_attribute_sets(model.metric_attributes, "gpt-4o-mini-2024-07-18")
    call = {**model.metric_attributes, "gen_ai.response.model": "gpt-4o-mini-2024-07-18"}
    assert sets.call == call
    assert sets.input_tokens == {**call, "gen_ai.token.type": "input"}
    assert sets.output_tokens == {**call, "gen_ai.token.type": "output"}


def test_an_answer_without_a_model_name_has_no_such_attribute() -> None:
    model = model_of()
    assert model.metric_attribute_sets(model.metric_attributes, None).call == model.metric_attributes


def test_attribute_sets_are_created_once_for_each_response_model() -> None:
    model = model_of()
    first = model.metric_attribute_sets(model.metric_attributes, "a")
    assert model.metric_attribute_sets(model.metric_attributes, "a") is first
    assert model.metric_attribute_sets(model.metric_attributes, "b").call["gen_ai.response.model"] == "b"


def test_a_calls_own_attributes_are_not_those_of_the_next_call() -> None:
    model = model_of()
    own = {**model.metric_attributes, "tenant": "acme"}
    assert model.metric_attribute_sets(own, "a").input_tokens["tenant"] == "acme"
    assert "tenant" not in model.metric_attribute_sets(model.metric_attributes, "a").input_tokens


def test_any_number_of_response_models_is_reported_and_a_bounded_number_kept() -> None:
    model = model_of()
    for number in range(200):
        sets = model.metric_attribute_sets(model.metric_attributes, f"m{number}")
        assert sets.call["gen_ai.response.model"] == f"m{number}"
    assert len(model._metric_attribute_sets) == model_module._MOST_VARIANTS == 32


def test_a_call_that_sends_the_models_own_name_needs_no_variant() -> None:
    model = model_of()
    assert model.variant("chat", "gpt-4o-mini") is model
    assert model.variant("chat", None) is model
    assert model.variant("chat", "") is model


def test_a_call_that_sends_another_name_is_described_and_priced_as_that_model() -> None:
    model = model_of(options={"span_names": "semconv"}, created_by=CREATED_BY)
    variant = model.variant("chat", "gpt-4o")
    assert variant.span_name == "chat gpt-4o"
    assert variant.attributes == {**model.attributes, "gen_ai.request.model": "gpt-4o"}
    assert variant.links is not None
    assert [link.context for link in variant.links] == [CREATED_BY]
    dear, cheap = variant.price(Response(usage=USAGE)), model.price(Response(usage=USAGE))
    assert dear is not None
    assert cheap is not None
    assert dear > 10 * cheap
    assert model.variant("chat", "gpt-4o") is variant


def test_another_operation_is_a_variant_with_the_same_price() -> None:
    model = model_of(pricing={"cost": {"input": 7, "output": 11}})
    variant = model.variant("text_completion", None)
    assert variant.attributes == {**model.attributes, "gen_ai.operation.name": "text_completion"}
    assert variant.price(Response(usage=USAGE)) == model.price(Response(usage=USAGE)) == pytest.approx(0.0125)


def test_the_metadata_of_one_model_does_not_price_another() -> None:
    model = model_of(pricing={"cost": {"input": 7, "output": 11}})
    assert model.variant("chat", "no-such-model").price(Response(usage=USAGE)) is None


def test_any_number_of_names_can_be_sent_and_a_bounded_number_of_variants_is_kept() -> None:
    model = model_of(options={"cost": False})
    for number in range(200):
        assert model.variant("chat", f"m{number}").identity.api_model == f"m{number}"
    assert len(model._variants) == 32
    kept, other = (model.variant("chat", name) for name in ("m0", "m199"))
    assert model.variant("chat", "m0") is kept
    assert model.variant("chat", "m199") is not other


# --- Prices ---


def test_a_price_is_that_of_the_service_tier_that_answered() -> None:
    modes = {"priority": {"cost": {"input": 14, "output": 42}, "provider": {"body": {"service_tier": "priority"}}}}
    pricing = {"cost": {"input": 7, "output": 11}, "experimental": {"modes": modes}}
    model = model_of(ModelIdentity("acme", "m", "openai_compatible", "m"), pricing=pricing)
    assert model.price(Response(usage=USAGE)) == pytest.approx(0.0125)
    assert model.price(Response(usage=USAGE, service_tier="default")) == pytest.approx(0.0125)
    assert model.price(Response(usage=USAGE, service_tier="priority")) == pytest.approx(0.035)
    assert model.price(Response(usage=USAGE, service_tier="flex")) is None


def test_the_price_reported_by_the_provider_takes_precedence() -> None:
    assert model_of().price(Response(usage=USAGE, cost=0.5)) == 0.5
    assert model_of(options={"cost": lambda *_: 3.0}).price(Response(usage=USAGE, cost=0.0)) == 0.0


def test_without_usage_there_is_no_price() -> None:
    assert model_of().price(Response()) is None
    assert model_of(options={"cost": lambda *_: 3.0}).price(Response()) is None


def test_an_answer_from_the_cache_has_no_price() -> None:
    assert model_of().price(Response(usage=USAGE, cost=0.5, cached=True)) is None


def test_cost_can_be_switched_off() -> None:
    model = model_of(options={"cost": False}, pricing={"cost": {"input": 7, "output": 11}})
    assert model.price(Response(usage=USAGE, cost=0.5)) is None
    assert model_of(COPILOT, {"cost": False}).reference_price(USAGE) is None


def test_a_users_function_receives_modelforges_provider_and_the_sent_model_name() -> None:
    seen: list[tuple[object, ...]] = []

    def cost(*arguments: object) -> float:
        seen.append(arguments)
        return 0.25

    assert model_of(options={"cost": cost}).price(Response(usage=USAGE)) == 0.25
    assert seen == [("openai", "gpt-4o-mini", USAGE)]


@pytest.mark.parametrize("llm_type", ["ollama", "github_copilot"])
def test_a_model_not_billed_by_the_token_has_no_price(llm_type: str) -> None:
    model = model_of(ModelIdentity("openai", "gpt-4o-mini", llm_type, "gpt-4o-mini"))
    assert model.price(Response(usage=USAGE)) is None


def test_only_copilots_models_have_a_reference_price() -> None:
    reference = model_of(COPILOT).reference_price(USAGE)
    assert reference is not None
    assert reference > 0
    assert model_of().reference_price(USAGE) is None


def test_a_fault_while_the_price_is_looked_up_leaves_the_model_without_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def resolve_rates(*args: object, **kwargs: object) -> None:
        raise LookupError("no such list")

    monkeypatch.setattr(model_module, "resolve_rates", resolve_rates)
    monkeypatch.setattr(model_module._RATES_GUARD, "_reported", False)
    assert model_of().price(Response(usage=USAGE)) is None
    assert "Telemetry fault while resolving a model's price" in caplog.text
    caplog.clear()


# --- Baggage ---


def test_baggage_is_copied_by_name() -> None:
    context = baggage.set_baggage("user.id", "ada")
    context = baggage.set_baggage("tenant", 7, context)
    context = baggage.set_baggage("bad", "a\ud800", context)
    assert baggage_attributes(("user.id", "absent"), context) == {"user.id": "ada"}
    assert baggage_attributes(("tenant", "bad"), context) == {"tenant": "7", "bad": "a\ufffd"}
    assert baggage_attributes((), context) == {}
    assert baggage_attributes(("user.id",)) == {}


def test_calls_with_equal_copied_entries_share_the_attributes_of_their_metrics() -> None:
    model = model_of(options={"metric_metadata_keys": ("tenant",)})
    first, second = (
        model.metric_attributes_of(Request(uuid4(), (), metadata={"tenant": "acme"}), Context()) for _ in range(2)
    )
    assert first == {**model.metric_attributes, "tenant": "acme"}
    assert second is first
    for number in range(200):
        model.metric_attributes_of(Request(uuid4(), (), metadata={"tenant": str(number)}), Context())
    assert len(model._with_copied) == model_module._MOST_VARIANTS


def test_without_such_options_the_attributes_of_metrics_are_the_models() -> None:
    model = model_of()
    request = Request(uuid4(), (), metadata={"tenant": "acme"})
    assert model.metric_attributes_of(request, Context()) is model.metric_attributes
    assert model.copied_attributes(request, Context()) == {}
