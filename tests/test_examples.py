"""The examples `streaming`, `baggage` and `custom_callback`, run as `./run` runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest
from check_examples import difference
from conftest import lacking
from services import EXAMPLES, TIMEOUT
from test_quickstart import missing

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

LACKING = lacking("fastapi", "uvicorn", instrumentors=("fastapi",))
BAGGAGE = [("baggage",), ("baggage", "--programmatic")]
OTHERS = [
    ("streaming",),
    ("streaming", "--programmatic", "--chunk-events=all"),
    ("custom_callback",),
]

Outputs = Mapping[tuple[str, ...], str]


@pytest.fixture(scope="module")
def outputs() -> Outputs:
    """What each command printed. They run at once: most of their time they wait."""
    runs = {
        (name, *arguments): subprocess.Popen(
            [sys.executable, EXAMPLES / name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # As wide as it takes for a span to stay in its line.
            env={**os.environ, "COLUMNS": "200"},
        )
        for name, *arguments in OTHERS + ([] if LACKING else BAGGAGE)
    }
    outputs: dict[tuple[str, ...], str] = {}
    try:
        for command, run in runs.items():
            outputs[command], errors = run.communicate(timeout=10 * TIMEOUT)
            assert run.returncode == 0, f"{command}: {errors}"
    finally:
        for run in runs.values():
            run.kill()
    return outputs


def assert_as_in_readme(name: str, output: str) -> None:
    problem = difference(EXAMPLES / name / "README.md", output)
    assert problem is None, problem


LATER_CHUNK = re.compile(r"^.*─ modelforge\.chunk [1-9].*\n", re.MULTILINE)
"""The line of a chunk that is an event with `--chunk-events=all` only."""


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


@pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
@pytest.mark.parametrize("arguments", [(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def test_baggage_names_the_tenant_and_the_user_of_each_call(arguments: tuple[str, ...], outputs: Outputs) -> None:
    output = outputs["baggage", *arguments]
    assert output.startswith(
        "acme, ada: Dressing for Lisbon, Dressing for Lisbon\nglobex, grace: Dressing for Lisbon\n\n"
    )
    assert_as_in_readme("baggage", output)


def test_custom_callback_adds_up_what_the_calls_used(outputs: Outputs) -> None:
    output = outputs["custom_callback",]
    assert output.startswith("Dressing for Lisbon: What should I wear in Lisbon today?\n")
    assert_as_in_readme("custom_callback", output)
    counts = [int(count) for pair in re.findall(r"(\d+) → (\d+) tokens", output) for count in pair]
    assert len(counts) == 4
    assert f"app.calls 2 · app.tokens {sum(counts)}" in output
