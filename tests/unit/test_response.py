# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Usage and responses: their attributes, and how one completes another."""

from __future__ import annotations

from typing import Any

import pytest

from opentelemetry_instrumentation_modelforge.response import Response, Usage

ALL_COUNTS = {
    "gen_ai.usage.input_tokens": 1,
    "gen_ai.usage.output_tokens": 2,
    "gen_ai.usage.cache_read.input_tokens": 3,
    "gen_ai.usage.cache_write.input_tokens": 4,
    "gen_ai.usage.reasoning.output_tokens": 5,
    "gen_ai.usage.audio.input_tokens": 6,
    "gen_ai.usage.audio.output_tokens": 7,
}
FULL = Response(
    id="chatcmpl-1",
    model="gpt-4o-mini-2024-07-18",
    finish_reasons=("stop", "length"),
    usage=Usage(11, 7),
    cost=0.25,
    service_tier="flex",
    system_fingerprint="fp_1",
    cached=True,
    error="server_error",
    api_type="chat_completions",
    previous_response_id="resp_1",
)


def test_every_count_has_its_attribute() -> None:
    usage = Usage(
        input_tokens=1,
        output_tokens=2,
        cache_read_input_tokens=3,
        cache_write_input_tokens=4,
        reasoning_output_tokens=5,
        audio_input_tokens=6,
        audio_output_tokens=7,
    )
    assert dict(usage.attributes()) == ALL_COUNTS


def test_a_count_of_zero_is_known_and_none_is_not() -> None:
    assert dict(Usage(input_tokens=11, output_tokens=0).attributes()) == {
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 0,
    }
    assert dict(Usage().attributes()) == {}


def test_the_attributes_of_a_response() -> None:
    # Cost and error.type are attributes of the call, which may have better values.
    assert dict(FULL.attributes()) == {
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ("stop", "length"),
        "modelforge.response.cached": True,
        "openai.response.service_tier": "flex",
        "openai.response.system_fingerprint": "fp_1",
        "openai.api.type": "chat_completions",
        "gen_ai.request.previous_response.id": "resp_1",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
    }


def test_an_empty_response_has_no_attribute() -> None:
    assert dict(Response().attributes()) == {}


@pytest.mark.parametrize("value", [Usage(1), Response()])
def test_a_response_is_immutable(value: Any) -> None:
    for field in value._fields:
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_missing_values_are_completed() -> None:
    assert Response().completed_by(FULL) == FULL
    assert FULL.completed_by(Response()) == FULL
    assert Response(id="mine", usage=Usage(3)).completed_by(FULL) == FULL._replace(id="mine", usage=Usage(3))


def test_known_values_are_kept() -> None:
    other = Response("other", "m", ("error",), Usage(1), 9.0, "auto", "fp_2", error="x", api_type="responses")
    assert FULL.completed_by(other) == FULL


@pytest.mark.parametrize("other", [Response(), Response(cost=0.5)])
def test_a_call_that_was_free_stays_free(other: Response) -> None:
    assert Response(cost=0.0).completed_by(other).cost == 0.0


def test_completing_does_not_modify_either_of_the_two() -> None:
    mine, other = Response(id="mine"), Response(model="theirs")
    assert mine.completed_by(other) == Response(id="mine", model="theirs")
    assert (mine, other) == (Response(id="mine"), Response(model="theirs"))
