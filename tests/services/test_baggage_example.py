# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`examples/baggage`, run as its README describes."""

from __future__ import annotations

import pytest

from support.environment import lacking
from support.examples import Outputs, assert_as_in_readme, missing, outputs_of

if reason := missing() or lacking("fastapi", "uvicorn", instrumentors=("fastapi",)):
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    return outputs_of(("baggage",), ("baggage", "--programmatic"))


@pytest.mark.parametrize("arguments", [(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def test_baggage_names_the_tenant_and_the_user_of_each_call(arguments: tuple[str, ...], outputs: Outputs) -> None:
    output = outputs["baggage", *arguments]
    assert output.startswith(
        "acme, ada: Dressing for Lisbon, Dressing for Lisbon\nglobex, grace: Dressing for Lisbon\n\n"
    )
    assert_as_in_readme("baggage", output)
