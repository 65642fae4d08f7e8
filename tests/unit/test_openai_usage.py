# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Usage and prices, in the spellings of OpenAI and of compatible servers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from opentelemetry_instrumentation_modelforge.providers.openai_usage import read_price, read_usage
from opentelemetry_instrumentation_modelforge.response import Usage
from support.openai_answers import TOKENS


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({}, Usage(30, 8), id="plain"),
        pytest.param(
            {
                "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 4},
                "completion_tokens_details": {
                    "reasoning_tokens": 6,
                    "audio_tokens": 1,
                    "rejected_prediction_tokens": 2,
                },
            },
            Usage(30, 8, 20, None, 6, 4, 1),
            id="OpenAI, Azure, Groq",
        ),
        pytest.param({"prompt_tokens_details": None, "completion_tokens_details": None}, Usage(30, 8), id="vLLM"),
        pytest.param({"prompt_tokens_details": {"cached_tokens": 0}}, Usage(30, 8, 0), id="nothing cached"),
        pytest.param({"prompt_cache_hit_tokens": 20, "prompt_cache_miss_tokens": 10}, Usage(30, 8, 20), id="DeepSeek"),
        pytest.param(
            {"prompt_cache_hit_tokens": 20, "prompt_tokens_details": {"cached_tokens": 20}},
            Usage(30, 8, 20),
            id="DeepSeek, both spellings",
        ),
        pytest.param({"cached_tokens": 20}, Usage(30, 8, 20), id="Moonshot"),
        pytest.param({"num_cached_tokens": 20}, Usage(30, 8, 20), id="Mistral"),
        pytest.param(
            {"prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 7}},
            Usage(30, 8, 20, 7),
            id="OpenRouter, cache write",
        ),
        pytest.param(
            {
                "prompt_tokens_details": {
                    "cached_tokens": 0,
                    "cache_creation_input_tokens": 25,
                    "cache_type": "ephemeral",
                }
            },
            Usage(30, 8, 0, 25),
            id="Qwen, cache write",
        ),
        pytest.param(
            {
                "prompt_tokens_details": {"cached_tokens": 20, "cache_creation_tokens": 7},
                "cache_read_input_tokens": 20,
                "cache_creation_input_tokens": 7,
            },
            Usage(30, 8, 20, 7),
            id="LiteLLM, cache inside the prompt",
        ),
        pytest.param(
            {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 40, "total_tokens": 578},
            Usage(570, 8, 500, 40),
            id="Anthropic, cache beside the prompt, in the total",
        ),
        pytest.param(
            {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 540},
            Usage(570, 8, 0, 540),
            id="Anthropic, cache beside the prompt, not in the total",
        ),
        pytest.param(
            {
                "prompt_tokens_details": {
                    "cached_tokens": 9,
                    "cache_creation_tokens": 12,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
                }
            },
            Usage(30, 8, 9, 12, cache_write_1h_input_tokens=7),
            id="LiteLLM, written for an hour",
        ),
        pytest.param(
            {
                "cache_creation_input_tokens": 12,
                "cache_creation": {"ephemeral_5m_input_tokens": 12, "ephemeral_1h_input_tokens": 0},
            },
            Usage(30, 8, None, 12, cache_write_1h_input_tokens=0),
            id="Anthropic, written for five minutes",
        ),
        pytest.param(
            {"cache_creation": {"ephemeral_1h_input_tokens": 7}},
            Usage(30, 8, None, 7, cache_write_1h_input_tokens=7),
            id="Anthropic, written for an hour, without their sum",
        ),
        pytest.param(
            {"completion_tokens_details": {"reasoning_tokens": 6}},
            Usage(30, 8, reasoning_output_tokens=6),
            id="reasoning inside",
        ),
        pytest.param(
            {"completion_tokens_details": {"reasoning_tokens": 70}, "total_tokens": 108},
            Usage(30, 78, reasoning_output_tokens=70),
            id="xAI, reasoning beside",
        ),
        pytest.param(
            {
                "completion_tokens_details": {"reasoning_tokens": 70},
                "cache_read_input_tokens": 500,
                "total_tokens": 608,
            },
            Usage(530, 78, 500, reasoning_output_tokens=70),
            id="reasoning and cache beside",
        ),
        pytest.param({"reasoning_tokens": 6}, Usage(30, 8, reasoning_output_tokens=6), id="SGLang, reasoning inside"),
        pytest.param({"total_tokens": 108}, Usage(30, 78), id="Gemini, thinking only in the total"),
        pytest.param(
            {"total_tokens": 108, "prompt_tokens_details": {"cached_tokens": 20}},
            Usage(30, 78, 20),
            id="Gemini, thinking only in the total, and a cache",
        ),
        pytest.param({"total_tokens": 108, "prompt_audio_seconds": 4}, Usage(100, 8), id="Mistral, audio in the total"),
        pytest.param(
            {"completion_tokens": 0, "total_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 60}},
            Usage(30, 60, reasoning_output_tokens=60),
            id="nothing but thinking",
        ),
    ],
)
def test_every_spelling_of_usage(usage: dict[str, Any], expected: Usage) -> None:
    assert read_usage({**TOKENS, **usage}) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"total_tokens": 20}, Usage(30, 8), id="total below its parts"),
        pytest.param({"total_tokens": None}, Usage(30, 8), id="no total"),
        pytest.param({"prompt_tokens_details": {"cached_tokens": 31}}, Usage(30, 8), id="more cached than sent"),
        pytest.param({"cached_tokens": 20, "cache_creation_input_tokens": 4}, Usage(30, 8, 20, 4), id="both fit"),
        pytest.param({"completion_tokens_details": {"reasoning_tokens": 9}}, Usage(30, 8), id="more reasoning"),
        pytest.param({"reasoning_tokens": 9, "total_tokens": 50}, Usage(30, 8), id="unexplained total"),
        pytest.param(
            {"completion_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 50},
            Usage(30, 8, reasoning_output_tokens=0),
            id="unexplained total without reasoning",
        ),
        pytest.param(
            {
                "prompt_tokens_details": {"cached_tokens": 28},
                "cache_read_input_tokens": 28,
                "cache_creation_input_tokens": 28,
            },
            Usage(30, 8),
            id="LiteLLM, the same tokens read and written",
        ),
        pytest.param(
            {"cache_read_input_tokens": 9, "total_tokens": 50}, Usage(30, 8, 9), id="unexplained beside a cache"
        ),
        pytest.param({"prompt_tokens_details": {"audio_tokens": 31}}, Usage(30, 8), id="more audio than sent"),
        pytest.param({"completion_tokens_details": {"audio_tokens": 9}}, Usage(30, 8), id="more audio than answered"),
        pytest.param({"prompt_tokens": 30.0, "completion_tokens": 8.0}, Usage(30, 8), id="floats"),
        pytest.param({"prompt_tokens": 30.5}, Usage(None, 8), id="half a token"),
        pytest.param({"prompt_tokens": "30", "completion_tokens": "8"}, Usage(30, 8), id="text"),
        pytest.param({"prompt_tokens": "about 30"}, Usage(None, 8), id="no number in the text"),
        pytest.param({"prompt_tokens": "-1"}, Usage(None, 8), id="negative in the text"),
        pytest.param({"prompt_tokens": "9" * 5000}, Usage(None, 8), id="more than an integer in the text"),
        pytest.param({"prompt_tokens": True}, Usage(None, 8), id="boolean"),
        pytest.param({"prompt_tokens": -1}, Usage(None, 8), id="negative"),
        pytest.param({"prompt_tokens": 2**53}, Usage(None, 8), id="no integer of JSON"),
        pytest.param({"prompt_tokens": 0}, Usage(None, 8), id="prompt from a cache, not counted"),
        pytest.param({"completion_tokens": None}, Usage(30, 8), id="no completion, but a total"),
        pytest.param({"completion_tokens": None, "total_tokens": 30}, Usage(30), id="no completion"),
        pytest.param({"completion_tokens": 0, "total_tokens": 30}, Usage(30, 0), id="empty completion"),
        pytest.param({"prompt_tokens_details": [1], "completion_tokens_details": "x"}, Usage(30, 8), id="no objects"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None, id="zeros"),
        pytest.param({"prompt_tokens": None, "completion_tokens": None}, None, id="nulls"),
    ],
)
def test_an_impossible_count_is_left_out(usage: dict[str, Any], expected: Usage | None) -> None:
    assert read_usage({**TOKENS, **usage}) == expected


def test_anthropics_own_input_count_never_includes_its_cache() -> None:
    usage = {"input_tokens": 30, "output_tokens": 8, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 4}
    assert read_usage(usage) == Usage(54, 8, 20, 4)


def test_reasoning_without_a_total_is_added_if_the_output_cannot_include_it() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 9}}
    assert read_usage(usage) == Usage(30, 17, reasoning_output_tokens=9)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"cost": 0.25}, 0.25, id="OpenRouter"),
        pytest.param({"cost": 0}, 0.0, id="free"),
        pytest.param({"cost": {"request_cost": 0.125, "total_cost": 0.25}}, 0.25, id="Perplexity"),
        pytest.param({"cost": {"input": 0.125, "total": 0.25}}, 0.25, id="an object with a total"),
        pytest.param({"cost_usd_total": 0.25, "cost_usd_input": 0.125}, 0.25, id="LLM Gateway"),
        pytest.param({"estimated_cost": 0.25}, 0.25, id="DeepInfra"),
        pytest.param({"cost_in_usd_ticks": 2_500_000_000}, 0.25, id="xAI"),
        pytest.param(
            {"cost": 0.25, "is_byok": True, "cost_details": {"upstream_inference_cost": 1.5}}, 1.75, id="own key"
        ),
        pytest.param({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 1.5}}, 1.5, id="no fee"),
        pytest.param({"cost": 0.25, "cost_details": {"upstream_inference_cost": 1.5}}, 1.75, id="own key, not said"),
        pytest.param(
            {"cost": 0.25, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.25}}, 0.25, id="their key"
        ),
        pytest.param({"cost": 0.25, "cost_details": {"upstream_inference_cost": 0.25}}, 0.25, id="their key, not said"),
        pytest.param({"cost": 0.25, "cost_details": {"upstream_inference_cost": None}}, 0.25, id="no upstream price"),
        pytest.param({"cost": 0.25, "is_byok": True}, None, id="own key, only the fee"),
        pytest.param({"cost": -1}, None, id="negative"),
        pytest.param({"cost": math.nan}, None, id="NaN"),
        pytest.param({"cost": math.inf}, None, id="infinite"),
        pytest.param({"cost": True}, None, id="boolean"),
        pytest.param({"cost": "0.25"}, 0.25, id="text"),
        pytest.param({"cost": "free"}, None, id="no number in the text"),
        pytest.param({"cost": "nan"}, None, id="NaN in the text"),
        pytest.param({"cost": {"total": 0.25, "currency": "usd"}}, 0.25, id="dollars"),
        pytest.param({"cost": {"total": 0.25, "currency": "EUR"}}, None, id="another currency"),
        pytest.param({"cost": 0.25, "currency": "EUR"}, None, id="another currency, beside the price"),
        pytest.param({"cost": {"total_cost": "?"}}, None, id="object without a price"),
        pytest.param({"cost": None, "estimated_cost": 0.25}, 0.25, id="null beside a price"),
        pytest.param({}, None, id="no price"),
    ],
)
def test_every_spelling_of_a_price(usage: dict[str, Any], expected: float | None) -> None:
    assert read_price(usage) == expected
