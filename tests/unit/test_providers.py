# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The table of ModelForge's kinds of clients, and a kind that is unknown to the package."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from modelforge import registry

import opentelemetry_instrumentation_modelforge
from opentelemetry_instrumentation_modelforge.providers import PROVIDERS, Answer, Provider, provider_of
from opentelemetry_instrumentation_modelforge.response import Response, Usage

UNKNOWN = Provider()
PACKAGE = Path(opentelemetry_instrumentation_modelforge.__file__).parent


@pytest.mark.parametrize("llm_type", PROVIDERS)
def test_a_kind_of_client_is_found_by_its_name_in_modelforge(llm_type: str) -> None:
    assert provider_of(llm_type) is PROVIDERS[llm_type]
    assert type(PROVIDERS[llm_type]) is not Provider


@pytest.mark.parametrize("llm_type", [None, "", "no_such_type", "OPENAI_COMPATIBLE"])
def test_any_other_name_is_of_an_unknown_kind(llm_type: str | None) -> None:
    assert type(provider_of(llm_type)) is Provider


def test_modelforge_has_a_client_of_each_kind_and_no_other() -> None:
    tree = ast.parse(inspect.getsource(registry))
    assert {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} >= set(PROVIDERS)
    creators = {name for name in vars(registry.ModelForgeRegistry) if name.startswith("_create_")}
    assert creators - {"_create_base_llm"} == {f"_create_{llm_type}" for llm_type in PROVIDERS}


def test_only_a_kinds_own_folder_refers_to_it() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "providers" not in path.parts and "doctor" not in path.parts]
    assert len(files) > 20
    constants = {
        (path.name, node.value)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        for node in ast.walk(node)
        if isinstance(node, ast.Constant) and node.value in PROVIDERS
    }
    assert constants == set()


@pytest.mark.parametrize(
    "tap", [tap for provider in PROVIDERS.values() for tap in provider.taps], ids=lambda tap: f"{tap.module}.{tap.name}"
)
def test_every_tap_is_a_function_of_the_installed_integration(tap: Any) -> None:
    owner = importlib.import_module(tap.module)
    if tap.owner is not None:
        owner = getattr(owner, tap.owner)
    assert tap.keyword in inspect.signature(vars(owner)[tap.name]).parameters


@pytest.mark.parametrize("llm_type", PROVIDERS)
def test_each_call_has_its_own_reader(llm_type: str) -> None:
    first, second = PROVIDERS[llm_type].answer(), PROVIDERS[llm_type].answer()
    assert first is not second
    assert isinstance(first, Answer)


@pytest.mark.parametrize("llm_type", PROVIDERS)
def test_the_response_of_a_call_without_an_answer_is_empty(llm_type: str) -> None:
    response = PROVIDERS[llm_type].answer().response((), None)
    assert response._replace(api_type=None) == Response()


# --- An unknown kind ---


def test_the_response_of_an_unknown_client_is_read_from_langchain() -> None:
    usage: Any = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}
    generation = ChatGeneration(message=AIMessage("Hi", usage_metadata=usage))
    answer = UNKNOWN.answer()
    answer.add({"usage": {"prompt_tokens": 9}})
    answer.add_chunk(object())
    assert answer.response([generation], {"model_name": "m"}) == Response(model="m", usage=Usage(5, 6))


def test_the_common_fields_of_an_unknown_client_are_read() -> None:
    client = {"base_url": "http://host:1", "api_key": "secret-key"}
    assert UNKNOWN.client_url(client) == "http://host:1"
    assert UNKNOWN.client_url({"base_url": 5}) is None
    assert list(UNKNOWN.client_credentials(client)) == ["http://host:1", "secret-key"]
    assert UNKNOWN.api_model("fast", {"api_model_name": "fast-2024"}) == "fast-2024"
    assert UNKNOWN.api_model("fast", {"api_model_name": None}) == "fast"
    assert UNKNOWN.default_server is None
    assert UNKNOWN.taps == ()
    assert UNKNOWN.paid_by_token
    assert not UNKNOWN.has_reference_cost
    assert not UNKNOWN.separate_system_instructions


def test_the_parameters_of_a_call_take_precedence_over_those_of_an_unknown_client() -> None:
    params = {"model_kwargs": {"seed": 3}, "temperature": 0.5}
    assert list(UNKNOWN.request_parameters(params, {})) == [{"seed": 3}, params]


def test_stream_usage_is_not_requested_of_an_unknown_client() -> None:
    class Client:
        stream_usage = False

    client = Client()
    UNKNOWN.request_stream_usage(client)
    assert client.stream_usage is False
