# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Attributes for one block of code, for the models handed out in it, and for the registries created in it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from modelforge import ModelForgeRegistry
from opentelemetry.context import get_current

from opentelemetry_instrumentation_modelforge import telemetry_attributes
from support.calls import MODEL_SPAN, MODES, ask
from support.models import get_llm, without_retries
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

GET_LLM = "modelforge.get_llm"
DURATION = "gen_ai.client.operation.duration"


def teams(telemetry: Telemetry, name: str = MODEL_SPAN) -> list[Any]:
    return [span.attributes.get("team") for span in telemetry.spans() if span.name == name]


def metric_teams(telemetry: Telemetry) -> dict[str, set[Any]]:
    return {name: {point.attributes.get("team") for point in points} for name, points in telemetry.metrics().items()}


@pytest.fixture
def new_llm(registry: ModelForgeRegistry) -> Callable[..., Any]:
    def new_llm(of: ModelForgeRegistry = registry) -> Any:
        return without_retries(get_llm(of, "openai", "gpt-4o-mini"))

    return new_llm


@pytest.mark.parametrize("mode", MODES)
def test_calls_in_a_block_have_its_attributes(instrumented: Telemetry, new_llm: Callable[[], Any], mode: str) -> None:
    llm = new_llm()
    with telemetry_attributes(team="search"):
        ask(llm, mode)
    ask(llm, mode)
    assert teams(instrumented) == ["search", None]
    assert teams(instrumented, GET_LLM) == [None]


def test_a_model_handed_out_in_a_block_keeps_its_attributes(
    instrumented: Telemetry, new_llm: Callable[[], Any]
) -> None:
    with telemetry_attributes(team="search"):
        llm = new_llm()
    llm.invoke("Hi")
    new_llm().invoke("Hi")
    assert teams(instrumented, GET_LLM) == ["search", None]
    assert teams(instrumented) == ["search", None]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))])
def test_a_copy_of_a_model_handed_out_in_a_block_keeps_its_attributes(
    instrumented: Telemetry, registry: ModelForgeRegistry, duplicate: Callable[[Any], Any]
) -> None:
    with telemetry_attributes(team="search"):
        # OpenAI's client does not support deep copies.
        llm = get_llm(registry, "ollama", "llama3")
    duplicate(llm).invoke("Hi")
    assert teams(instrumented) == ["search"]


def test_a_registry_created_in_a_block_gives_its_attributes_to_all_its_models(
    instrumented: Telemetry, new_llm: Callable[..., Any]
) -> None:
    with telemetry_attributes(team="search"):
        registry = ModelForgeRegistry()
    new_llm(registry).invoke("Hi")
    assert teams(instrumented, GET_LLM) == teams(instrumented) == ["search"]


def test_the_innermost_block_takes_precedence(instrumented: Telemetry, new_llm: Callable[..., Any]) -> None:
    with telemetry_attributes(team="registry", tier=1):
        registry = ModelForgeRegistry()
    with telemetry_attributes(team="outer", region="eu"), telemetry_attributes(team="model"):
        llm = new_llm(registry)
    with telemetry_attributes(team="call"):
        llm.invoke("Hi")
    llm.invoke("Hi")
    assert teams(instrumented, GET_LLM) == ["model"]
    assert teams(instrumented) == ["call", "model"]
    for span in instrumented.spans():
        if span.name == MODEL_SPAN:
            assert (span.attributes["tier"], span.attributes["region"]) == (1, "eu")


def test_a_block_takes_precedence_over_the_options(
    instrument: Callable[..., Telemetry], new_llm: Callable[[], Any]
) -> None:
    telemetry = instrument(
        attributes={"team": "all", "app": "shop"}, metric_attributes={"team": "all"}, baggage_keys=["tenant"]
    )
    with telemetry_attributes(team="search", metrics=True):
        new_llm().invoke("Hi")
    assert teams(telemetry, GET_LLM) == teams(telemetry) == ["search"]
    assert telemetry.span(MODEL_SPAN).attributes["app"] == "shop"
    assert metric_teams(telemetry)[DURATION] == {"search"}


def test_metrics_have_the_attributes_only_on_request(instrumented: Telemetry, new_llm: Callable[[], Any]) -> None:
    llm = new_llm()
    with telemetry_attributes(team="search"):
        list(llm.stream("Hi", stream_usage=True))
    assert set().union(*metric_teams(instrumented).values()) == {None}


@pytest.mark.parametrize("around", ["call", "model"])
def test_all_metrics_have_the_attributes_on_request(
    instrumented: Telemetry, new_llm: Callable[[], Any], around: str
) -> None:
    if around == "call":
        llm = new_llm()
        with telemetry_attributes(team="search", metrics=True):
            list(llm.stream("Hi", stream_usage=True))
    else:
        with telemetry_attributes(team="search", metrics=True):
            llm = new_llm()
        list(llm.stream("Hi", stream_usage=True))
    assert len(metric_teams(instrumented)) == 6
    assert set().union(*metric_teams(instrumented).values()) == {"search"}
    assert teams(instrumented) == ["search"]


def test_tasks_and_threads_of_a_block_have_its_attributes(instrumented: Telemetry, new_llm: Callable[[], Any]) -> None:
    llm = new_llm()

    async def gather() -> None:
        with telemetry_attributes(team="tasks"):
            tasks = [asyncio.ensure_future(llm.ainvoke("Hi")) for _ in range(2)]
        await asyncio.gather(*tasks)

    asyncio.run(gather())
    with telemetry_attributes(team="threads"):
        llm.batch(["Hi", "Hi"])
    assert sorted(teams(instrumented)) == ["tasks", "tasks", "threads", "threads"]


def test_attributes_may_be_given_as_a_mapping(instrumented: Telemetry, new_llm: Callable[[], Any]) -> None:
    with telemetry_attributes({"app.teams": ["a", "b"], "metrics": 1.5}, attributes=True):
        new_llm()
    attributes = instrumented.span(GET_LLM).attributes
    assert attributes is not None
    assert (attributes["app.teams"], attributes["metrics"], attributes["attributes"]) == (("a", "b"), 1.5, True)


def test_a_function_can_be_decorated(instrumented: Telemetry, new_llm: Callable[[], Any]) -> None:
    decorated = telemetry_attributes(team="search")(new_llm)
    decorated()
    decorated()
    assert teams(instrumented, GET_LLM) == ["search", "search"]


def test_an_error_in_a_block_propagates_and_the_context_is_restored() -> None:
    before = get_current()
    with pytest.raises(KeyError), telemetry_attributes(team="search"):
        raise KeyError
    assert get_current() is before


def test_a_block_in_a_generator_that_is_closed_in_another_context_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def generate() -> Iterator[int]:
        with telemetry_attributes(team="search"):
            yield 1

    generator = generate()
    assert contextvars.copy_context().run(next, generator) == 1
    before = get_current()
    generator.close()  # type: ignore[attr-defined]
    assert get_current() is before
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"team": None}, TypeError),
        ({"team": object()}, TypeError),
        ({"team": ["a", 1]}, TypeError),
        ({"team": 2**63}, ValueError),
        ({"team": "\ud800"}, ValueError),
        ({"": "search"}, ValueError),
        ({1: "search"}, TypeError),
    ],
)
def test_a_bad_attribute_raises_before_the_block(attributes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        telemetry_attributes(attributes)


def test_metrics_is_a_boolean() -> None:
    with pytest.raises(TypeError, match=r"telemetry_attributes\(metrics='team'\): expected True or False"):
        telemetry_attributes(team="search", metrics="team")  # type: ignore[arg-type]


def test_a_block_does_nothing_while_uninstrumented(registry: ModelForgeRegistry) -> None:
    with telemetry_attributes(team="search"):
        assert vars(type(registry)()).keys() == vars(registry).keys()


def test_the_name_can_be_imported_without_langchain(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = "from opentelemetry_instrumentation_modelforge import telemetry_attributes; import sys; print(*sys.modules)"
    result = python("-c", code)
    assert not [name for name in result.stdout.split() if name.startswith(("langchain", "modelforge"))], result.stderr
