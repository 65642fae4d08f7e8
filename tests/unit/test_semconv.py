# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Names of the conventions: spelled as in OpenTelemetry's packages, and defined once."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from opentelemetry.semconv.schemas import Schemas

from opentelemetry_instrumentation_modelforge import semconv

NAMES = {name: value for name, value in vars(semconv).items() if name.isupper() and name != "SCHEMA_URL"}


def sources(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return "\n".join(
        path.read_text(encoding="utf-8")
        for root in spec.submodule_search_locations
        for path in Path(root).rglob("*.py")
    )


def test_the_schema_exists_in_opentelemetry() -> None:
    assert semconv.SCHEMA_URL in {schema.value for schema in Schemas}


def test_no_name_is_defined_twice() -> None:
    assert [value for value, count in Counter(NAMES.values()).items() if count > 1] == []


def test_a_constant_is_named_after_its_value() -> None:
    dotted = {name: value for name, value in NAMES.items() if "." in value and not re.match("EVENT_|SPAN_", name)}
    assert {name: value.upper().replace(".", "_") for name, value in dotted.items()} == {name: name for name in dotted}


def test_names_outside_the_draft_are_those_of_opentelemetrys_packages() -> None:
    theirs = sources("opentelemetry.semconv") + sources("opentelemetry.util.genai")
    draft = re.compile(r"gen_ai\.(usage\.cost\.|client\.operation\.cost$)")
    ours = re.compile("modelforge|langchain")
    checked = [value for value in NAMES.values() if "." in value and not draft.match(value) and not ours.match(value)]
    assert checked
    assert [value for value in checked if f'"{value}"' not in theirs] == []
