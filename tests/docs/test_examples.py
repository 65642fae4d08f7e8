# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The examples `streaming` and `custom_callback`, run in the same way as by `./run`."""

from __future__ import annotations

import re

import pytest

from support.examples import Outputs, assert_as_in_readme, missing, outputs_of

if reason := missing():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    return outputs_of(
        ("streaming",),
        ("streaming", "--programmatic", "--chunk-events=all"),
        ("custom_callback",),
    )


LATER_CHUNK = re.compile(r"^.*─ modelforge\.chunk [1-9].*\n", re.MULTILINE)
"""The line of a chunk that is an event only with `--chunk-events=all`."""


@pytest.mark.parametrize(
    ("arguments", "later_chunks"),
    [((), 0), (("--programmatic", "--chunk-events=all"), 16 + 2 + 2 + 2)],
    ids=["zero-code", "programmatic"],
)
def test_streaming_shows_how_each_stream_ended(arguments: tuple[str, ...], later_chunks: int, outputs: Outputs) -> None:
    output = outputs["streaming", *arguments]
    assert output.startswith(
        "Lisbon lies on seven hills above the Tejo, and its trams climb most of them.\n"
        "Lisbon lies on (that will do)\n"
        "Lisbon lies on (nothing more comes)\n"
        "Lisbon lies on (The model is overloaded.)\n\n"
    )
    assert_as_in_readme("streaming", LATER_CHUNK.sub("", output))
    assert len(LATER_CHUNK.findall(output)) == later_chunks


def test_custom_callback_adds_up_what_the_calls_used(outputs: Outputs) -> None:
    output = outputs["custom_callback",]
    assert output.startswith("Dressing for Lisbon: What should I wear in Lisbon today?\n")
    assert_as_in_readme("custom_callback", output)
    counts = [int(count) for pair in re.findall(r"(\d+) → (\d+) tokens", output) for count in pair]
    assert len(counts) == 4
    assert f"app.calls 2 · app.tokens {sum(counts)}" in output
