# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Providers' answers, in every spelling, are recorded on the span and in the metrics, however the model is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import openai
import pytest
from modelforge import ModelForgeRegistry
from opentelemetry.trace import StatusCode
from pydantic import BaseModel, ValidationError

from support.calls import MODEL_SPAN, MODES, STREAMS, ask
from support.environment import COUNTS_REASONING, at_least
from support.models import get_llm, without_retries, write_config, write_price
from support.providers import GOOGLE_TELLS_ID, ProviderServer, Reply, google_response
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

MODEL = "house-1"
PRICES = {"input": 2, "output": 8, "cache_read": 0.5, "cache_write": 2.5}
ID = "chatcmpl-51f0"
SERVED = "house-1-2031-04-05"
USAGE = {"prompt_tokens": 120, "completion_tokens": 9, "total_tokens": 129}

IN = "gen_ai.usage.input_tokens"
OUT = "gen_ai.usage.output_tokens"
READ = "gen_ai.usage.cache_read.input_tokens"
WRITE = "gen_ai.usage.cache_write.input_tokens"
REASONING = "gen_ai.usage.reasoning.output_tokens"
AUDIO_IN = "gen_ai.usage.audio.input_tokens"
AUDIO_OUT = "gen_ai.usage.audio.output_tokens"
AMOUNT = "gen_ai.usage.cost.amount"
SOURCE = "gen_ai.usage.cost.source"
REASONS = "gen_ai.response.finish_reasons"
TOKENS = "gen_ai.client.token.usage"
COST = "gen_ai.client.operation.cost"
DURATION = "gen_ai.client.operation.duration"


class Seen:
    """The telemetry of the only call."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.span = telemetry.span(MODEL_SPAN)
        self.said = dict(self.span.attributes or {})
        self.metrics = telemetry.metrics()
        self.everything = "\n".join(
            [item.to_json() for item in telemetry.spans()]
            + [str(dict(point.attributes)) for points in self.metrics.values() for point in points]
            + [record.to_json() for record in telemetry.logs()]
        )

    def tokens(self) -> dict[str, int]:
        """Return the token metric by type."""
        return {point.attributes["gen_ai.token.type"]: point.sum for point in self.metrics.get(TOKENS, ())}

    def costs(self) -> list[float]:
        return [point.sum for point in self.metrics.get(COST, ())]

    def check(self, expected: Mapping[str, Any]) -> None:
        """Check attributes: None means that one is missing, and a float may differ by rounding."""
        for name, value in expected.items():
            found = self.said.get(name)
            assert found == pytest.approx(value) if isinstance(value, float) else found == value, (name, found)
            assert type(found) is type(value), name

    def check_usage(self, expected: Mapping[str, Any]) -> None:
        """Check the attributes and the token metric, which have the same numbers."""
        self.check(expected)
        assert "modelforge.usage.estimated" not in self.said
        assert self.tokens() == {"input": expected[IN], "output": expected[OUT]}


@pytest.fixture
def served(
    redirected: None, model_config: dict[str, Any], instrumented: Telemetry, provider_server: ProviderServer
) -> Callable[..., Any]:
    """Call it with a reply, a provider and prices per million tokens to get a model that receives the reply."""

    def served(
        reply: Reply, provider: str = "openai", model: str = MODEL, prices: Mapping[str, Any] | None = None
    ) -> Any:
        model_config["providers"][provider]["models"] = {model: {}}
        write_config(model_config)
        if prices:
            write_price(provider, model, dict(prices))
        provider_server.reply = reply
        return without_retries(get_llm(ModelForgeRegistry(), provider, model))

    return served


# --- Chat completions, whole and in chunks ---


def completion(usage: Mapping[str, Any] | None = USAGE, text: str = "Good day", **fields: Any) -> dict[str, Any]:
    """Return a whole answer, with additional fields."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": ID,
        "object": "chat.completion",
        "created": 1,
        "model": SERVED,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        **({"usage": usage} if usage is not None else {}),
        **fields,
    }


def chunk(text: str = "", reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    delta = {"role": "assistant", "content": text}
    return {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": 1,
        "model": SERVED,
        "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
        **fields,
    }


def chunks(usage: Mapping[str, Any] | None = USAGE, **fields: Any) -> list[dict[str, Any]]:
    """Return the same answer in chunks, as OpenAI sends it."""
    last = [] if usage is None else [chunk(choices=[], usage=usage, **fields)]
    return [chunk("Good ", **fields), chunk("day", **fields), chunk(reason="stop", **fields), *last]


def both(usage: Mapping[str, Any] | None = USAGE, **fields: Any) -> Reply:
    return Reply(body=completion(usage, **fields), events=chunks(usage, **fields))


SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenAI": (
        {
            "prompt_tokens": 900,
            "completion_tokens": 60,
            "total_tokens": 960,
            "prompt_tokens_details": {"cached_tokens": 400},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {IN: 900, READ: 400, OUT: 60, REASONING: 20, AMOUNT: 0.00168},
    ),
    "audio": (
        {
            "prompt_tokens": 50,
            "completion_tokens": 30,
            "total_tokens": 80,
            "prompt_tokens_details": {"audio_tokens": 40},
            "completion_tokens_details": {"audio_tokens": 25},
        },
        {IN: 50, AUDIO_IN: 40, OUT: 30, AUDIO_OUT: 25, AMOUNT: 0.00034},
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 700,
            "completion_tokens": 10,
            "total_tokens": 710,
            "prompt_cache_hit_tokens": 600,
            "prompt_cache_miss_tokens": 100,
        },
        {IN: 700, READ: 600, OUT: 10, AMOUNT: 0.00058},
    ),
    "Moonshot": (
        {"prompt_tokens": 300, "completion_tokens": 10, "total_tokens": 310, "cached_tokens": 256},
        {IN: 300, READ: 256, OUT: 10, AMOUNT: 0.000296},
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 800,
            "completion_tokens": 5,
            "total_tokens": 805,
            "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 500},
        },
        {IN: 800, READ: 100, WRITE: 500, OUT: 5, AMOUNT: 0.00174},
    ),
    "Anthropic through a proxy": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "cache_read_input_tokens": 300,
            "cache_creation_input_tokens": 200,
        },
        {IN: 600, READ: 300, WRITE: 200, OUT: 10, AMOUNT: 0.00093},
    ),
    "reasoning beside the completion": (
        {
            "prompt_tokens": 70,
            "completion_tokens": 15,
            "total_tokens": 185,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        {IN: 70, OUT: 115, REASONING: 100, AMOUNT: 0.00106},
    ),
    "reasoning inside the completion": (
        {
            "prompt_tokens": 70,
            "completion_tokens": 115,
            "total_tokens": 185,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        {IN: 70, OUT: 115, REASONING: 100, AMOUNT: 0.00106},
    ),
    "thoughts in the total alone": (
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 65},
        {IN: 20, OUT: 45, AMOUNT: 0.0004},
    ),
    "text": (
        {"prompt_tokens": "120", "completion_tokens": "9", "total_tokens": "129"},
        {IN: 120, OUT: 9, AMOUNT: 0.000312},
    ),
    "LiteLLM, the cache counted twice": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 10,
            "total_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 20, "cache_creation_tokens": 4},
            "cache_read_input_tokens": 20,
            "cache_creation_input_tokens": 4,
        },
        {IN: 30, READ: 20, WRITE: 4, OUT: 10, AMOUNT: 0.000112},
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_tokens_without_a_listed_price_have_no_cost(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    """Anthropic's one-hour cache writes, for example: models.dev only has the price of five-minute writes."""
    written = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 80}
    usage = {**USAGE, "cache_creation_input_tokens": 80, "cache_creation": written}
    ask(served(both(usage), prices=PRICES), mode)
    seen = Seen(instrumented)
    seen.check_usage({IN: 120, WRITE: 80, OUT: 9, AMOUNT: None})
    assert seen.costs() == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_usage_is_counted_and_priced_in_every_spelling(
    served: Callable[..., Any], instrumented: Telemetry, spelling: str, mode: str
) -> None:
    usage, expected = SPELLINGS[spelling]
    ask(served(both(usage), prices=PRICES), mode)
    seen = Seen(instrumented)
    seen.check_usage({**dict.fromkeys((READ, WRITE, REASONING, AUDIO_IN, AUDIO_OUT)), **expected, SOURCE: "local"})
    assert seen.costs() == pytest.approx([expected[AMOUNT]])


NAMED_PRICES: dict[str, tuple[dict[str, Any], float | None]] = {
    "OpenRouter": ({"cost": 0.00071, "is_byok": False}, 0.00071),
    "a bring-your-own-key share": (
        {"cost": 0.00003, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0006}},
        0.00063,
    ),
    "Perplexity": ({"cost": {"input_tokens_cost": 0.0001, "request_cost": 0.005, "total_cost": 0.0052}}, 0.0052),
    "DeepInfra": ({"estimated_cost": 0.00002}, 0.00002),
    "xAI": ({"cost_in_usd_ticks": 12_500_000}, 0.00125),
    "text": ({"cost": "0.0007"}, 0.0007),
    "an object with a total": ({"cost": {"input": 0.0001, "total": 0.0004}}, 0.0004),
    "LLM Gateway": ({"cost_usd_total": 0.0009, "cost_usd_input": 0.0002}, 0.0009),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("provider", NAMED_PRICES)
def test_a_price_reported_by_the_provider_is_the_cost(
    served: Callable[..., Any], instrumented: Telemetry, provider: str, mode: str
) -> None:
    named, expected = NAMED_PRICES[provider]
    ask(served(both({**USAGE, **named}), prices=PRICES), mode)
    seen = Seen(instrumented)
    seen.check_usage({IN: 120, OUT: 9, AMOUNT: expected, SOURCE: "provider", "gen_ai.usage.cost.currency": "USD"})
    assert seen.costs() == pytest.approx([expected])


@pytest.mark.parametrize("mode", MODES)
def test_a_price_may_be_reported_alongside_the_usage(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    """As OpenCode Zen's: github.com/anomalyco/opencode/issues/39061."""
    reply = Reply(body=completion(cost="0.0006"), events=[*chunks(), {"choices": [], "cost": "0.0006"}])
    ask(served(reply, prices=PRICES), mode)
    Seen(instrumented).check_usage({IN: 120, OUT: 9, AMOUNT: 0.0006, SOURCE: "provider"})


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_has_its_id_model_reason_and_fingerprint(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    ask(served(both(system_fingerprint="fp_house")), mode)
    seen = Seen(instrumented)
    seen.check(
        {
            "gen_ai.response.id": ID,
            "gen_ai.response.model": SERVED,
            REASONS: ("stop",),
            "openai.response.system_fingerprint": "fp_house",
            "openai.api.type": "chat_completions",
            "modelforge.outcome": "completed",
        }
    )
    assert [point.attributes["gen_ai.response.model"] for point in seen.metrics[DURATION]] == [SERVED]


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("asked", [True, False])
def test_a_count_repeated_in_every_chunk_is_counted_once(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, asked: bool
) -> None:
    def running(completion_tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 64, "completion_tokens": completion_tokens, "total_tokens": 64 + completion_tokens}

    events = [
        chunk("Good ", usage=running(1)),
        chunk("day ", usage=running(2)),
        chunk("to you", usage=running(4)),
        chunk(reason="stop", usage=running(4)),
        # OpenRouter repeats the usage with the finish reason.
        chunk(reason="stop", usage=running(4)),
    ]
    ask(served(Reply(events=events), prices=PRICES), mode, stream_usage=asked)
    seen = Seen(instrumented)
    seen.check_usage({IN: 64, OUT: 4, AMOUNT: 0.00016, REASONS: ("stop",), "gen_ai.response.model": SERVED})


CACHED = {"prompt_tokens": 120, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 100}}
SCATTERED: dict[str, tuple[Sequence[Any], dict[str, Any]]] = {
    "in the first chunk": ((USAGE, None, None), {AMOUNT: 0.000312}),
    "in a chunk amid the others": ((None, USAGE, None), {AMOUNT: 0.000312}),
    "the prompt first": ((CACHED, None, {"completion_tokens": 9}), {READ: 100, AMOUNT: 0.000162}),
    "the prompt last": (({"completion_tokens": 9}, None, {"prompt_tokens": 120}), {AMOUNT: 0.000312}),
    "the cache first": ((CACHED, None, USAGE), {READ: 100, AMOUNT: 0.000162}),
    "zeros last": ((None, USAGE, dict.fromkeys(USAGE, 0)), {AMOUNT: 0.000312}),
    "the price first": (({**USAGE, "cost": 0.0005}, None, {**USAGE, "cost": 0}), {AMOUNT: 0.0005}),
}


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("case", SCATTERED)
def test_a_streams_usage_may_be_in_any_of_its_chunks(
    served: Callable[..., Any], instrumented: Telemetry, case: str, mode: str
) -> None:
    usages, expected = SCATTERED[case]
    # The oldest release of LangChain adds up counts, including null ones.
    zeros = dict.fromkeys(USAGE, 0)
    events = [chunk("Good", usage=usage and zeros | usage) for usage in usages]
    ask(served(Reply(events=[*events, chunk(reason="stop")]), prices=PRICES), mode)
    Seen(instrumented).check_usage({IN: 120, OUT: 9, READ: None, REASONS: ("stop",), **expected})


@pytest.mark.parametrize("mode", STREAMS)
def test_the_first_chunk_need_not_have_the_id(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    """Azure's first chunk, for example, only reports on its content filter."""
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": []}
    ask(served(Reply(events=[first, *chunks()])), mode)
    Seen(instrumented).check_usage({IN: 120, OUT: 9, "gen_ai.response.id": ID, "gen_ai.response.model": SERVED})


@pytest.mark.parametrize("mode", MODES)
def test_each_choice_has_one_reason(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    message = {"role": "assistant", "content": "Good day"}
    choices = [
        {"index": 0, "message": message, "finish_reason": "length"},
        {"index": 1, "message": message, "finish_reason": "stop"},
    ]
    events = [
        chunk("Good", index=1),
        chunk("Good", index=0),
        chunk(index=1, reason="stop"),
        chunk(index=0, reason="length"),
        chunk(choices=[], usage=USAGE),
    ]
    ask(served(Reply(body=completion(choices=choices), events=events)), mode, n=2)
    Seen(instrumented).check_usage({IN: 120, OUT: 9, REASONS: ("length", "stop"), "gen_ai.request.choice.count": 2})


# --- Service tiers ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tier", ["default", "standard", "flex", "priority"])
def test_a_service_tier_has_its_listed_price(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, tier: str
) -> None:
    llm = served(both(service_tier=tier))
    priority = {"cost": {"input": 4, "output": 16}, "provider": {"body": {"service_tier": "priority"}}}
    write_price("openai", MODEL, PRICES, experimental={"modes": {"fast": priority}})
    llm = served(both(service_tier=tier))
    ask(llm, mode, service_tier=tier)
    # No price list here includes flex.
    cost = {"flex": None, "priority": 0.000624}.get(tier, 0.000312)
    seen = Seen(instrumented)
    seen.check_usage(
        {IN: 120, OUT: 9, AMOUNT: cost, "openai.request.service_tier": tier, "openai.response.service_tier": tier}
    )
    assert seen.costs() == ([] if cost is None else pytest.approx([cost]))


@pytest.mark.parametrize("mode", MODES)
def test_the_tier_may_be_in_the_usage(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    """Anthropic puts it there: platform.claude.com/docs/en/api/service-tiers."""
    ask(served(both({**USAGE, "service_tier": "priority"}), prices=PRICES), mode)
    Seen(instrumented).check_usage({IN: 120, OUT: 9, "openai.response.service_tier": "priority", AMOUNT: None})


@pytest.mark.parametrize("mode", STREAMS)
def test_the_tier_that_served_is_the_last_one_named(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    events = [{**event, "service_tier": "auto"} for event in chunks()[:-1]]
    events.append(chunk(choices=[], usage=USAGE, service_tier="flex"))
    ask(served(Reply(events=events), prices=PRICES), mode, service_tier="auto")
    Seen(instrumented).check(
        {"openai.request.service_tier": None, "openai.response.service_tier": "flex", AMOUNT: None}
    )


# --- Calls that were billed and then failed ---


class Invoice(BaseModel):
    """An invoice."""

    number: int


SECRET = "the-tide-turns-at-nine"
UNFIT = f'{{"number": "{SECRET}"}}'
BILLED = {
    IN: 120,
    OUT: 9,
    AMOUNT: 0.000312,
    "gen_ai.response.id": ID,
    "gen_ai.response.model": SERVED,
    "modelforge.outcome": "failed",
}


def unfit(reason: str = "stop") -> Reply:
    """Return an answer that is not an invoice, with its usage in the last chunk."""
    message = {"role": "assistant", "content": UNFIT, "refusal": None}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return Reply(
        body=completion(choices=choices), events=[chunk(UNFIT[:12]), chunk(UNFIT[12:], reason=reason, usage=USAGE)]
    )


def check_billed(seen: Seen, error: str, reason: str) -> None:
    seen.check_usage({**BILLED, "error.type": error, REASONS: (reason,)})
    assert seen.costs() == pytest.approx([0.000312])
    (duration,) = seen.metrics[DURATION]
    assert duration.attributes["error.type"] == error
    assert duration.attributes["gen_ai.response.model"] == SERVED
    assert seen.span.status.status_code is StatusCode.ERROR
    assert SECRET not in seen.everything


@pytest.mark.parametrize("mode", MODES)
def test_a_structured_answer_that_fails_its_schema_has_usage_and_cost(
    served: Callable[..., Any], instrumented: Telemetry, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    llm = served(unfit(), prices=PRICES).with_structured_output(Invoice, method="json_schema")
    with pytest.raises(ValidationError, match=SECRET):
        ask(llm, mode)
    check_billed(Seen(instrumented), "pydantic_core._pydantic_core.ValidationError", "stop")
    assert SECRET not in caplog.text


@pytest.mark.parametrize("mode", STREAMS)
def test_a_structured_stream_that_fails_before_its_usage_is_read_has_an_estimate(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    """The client validates the answer when it receives the finish reason, and reads no further."""
    events = [chunk(UNFIT), chunk(reason="stop"), chunk(choices=[], usage=USAGE)]
    llm = served(Reply(events=events), prices=PRICES).with_structured_output(Invoice, method="json_schema")
    with pytest.raises(ValidationError):
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({REASONS: ("stop",), "gen_ai.response.id": ID, "modelforge.usage.estimated": True, AMOUNT: None})
    assert (seen.tokens(), seen.costs()) == ({}, [])
    assert SECRET not in seen.everything


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("reason", "error"),
    [("length", openai.LengthFinishReasonError), ("content_filter", openai.ContentFilterFinishReasonError)],
)
def test_a_structured_answer_that_is_cut_short_has_usage_and_cost(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, reason: str, error: type[Exception]
) -> None:
    llm = served(unfit(reason), prices=PRICES).with_structured_output(Invoice, method="json_schema")
    with pytest.raises(error):
        ask(llm, mode)
    check_billed(Seen(instrumented), f"openai.{error.__name__}", reason)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strict", [None, True])
def test_a_tool_call_that_fails_its_schema_has_usage_and_cost(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, strict: bool | None
) -> None:
    """The schema is checked after the call, which has succeeded. In a stream, LangChain ignores such a call."""
    call = {"id": "call_1", "type": "function", "function": {"name": "Invoice", "arguments": UNFIT}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]}
    events = [
        chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}]),
        chunk(reason="tool_calls"),
        chunk(choices=[], usage=USAGE),
    ]
    llm = served(Reply(body=completion(choices=choices), events=events), prices=PRICES)
    with suppress(ValidationError) if mode in STREAMS else pytest.raises(ValidationError):
        ask(llm.with_structured_output(Invoice, method="function_calling", strict=strict), mode)
    seen = Seen(instrumented)
    seen.check_usage({**BILLED, "modelforge.outcome": "completed", "error.type": None, REASONS: ("tool_calls",)})
    assert SECRET not in seen.everything


# --- Answers that are errors or empty ---


@pytest.mark.parametrize("mode", MODES)
def test_an_error_with_status_200_is_an_error(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    body = {"error": {"message": f"Overloaded: {SECRET}", "code": "overloaded", "type": "server_error"}}
    llm = served(Reply(body=body, events=[chunk("Good"), body]))
    with pytest.raises((ValueError, openai.APIError), match=SECRET):
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", REASONS: ("error",)})
    assert seen.said["error.type"] == ("openai.APIError" if mode in STREAMS else "ValueError")
    assert seen.span.status.description == f"{seen.said['error.type']}: overloaded"
    assert SECRET not in seen.everything


@pytest.mark.parametrize("mode", STREAMS)
def test_a_choice_that_ends_with_an_error_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    """OpenRouter ends a stream in this way if its provider fails."""
    error = {"code": 502, "message": f"Provider disconnected: {SECRET}"}
    last = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": error}
    ask(served(Reply(events=[chunk("Good"), chunk(choices=[last])])), mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", "error.type": "502", REASONS: ("error",)})
    assert seen.span.status.status_code is StatusCode.ERROR
    assert seen.span.status.description == "502"
    assert SECRET not in seen.everything


FAILURES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    # console.groq.com/docs/api-reference
    "Groq": ({"x_groq": {"id": "req_1", "error": f"over capacity: {SECRET}"}}, "error_response", ("error",)),
    # docs.z.ai/api-reference/llm/chat-completion, api-docs.deepseek.com/api/create-chat-completion
    "Zhipu": ({"finish_reason": "network_error"}, "network_error", ("network_error",)),
    "DeepSeek": (
        {"finish_reason": "insufficient_system_resource"},
        "insufficient_system_resource",
        ("insufficient_system_resource",),
    ),
    "an error on a choice": ({"error": {"code": 502, "message": SECRET}}, "502", ("error",)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("provider", FAILURES)
def test_a_failed_generation_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, provider: str, mode: str
) -> None:
    fields, error, reasons = FAILURES[provider]
    choice = {"index": 0, "finish_reason": None, **{n: v for n, v in fields.items() if n != "x_groq"}}
    beside = {name: value for name, value in fields.items() if name == "x_groq"}
    body = completion(choices=[{**choice, "message": {"role": "assistant", "content": "Good"}}], **beside)
    last = chunk(choices=[{**choice, "delta": {}}], usage=USAGE, **beside)
    ask(served(Reply(body=body, events=[chunk("Good"), last])), mode)
    seen = Seen(instrumented)
    seen.check_usage({IN: 120, OUT: 9, "modelforge.outcome": "failed", "error.type": error, REASONS: reasons})
    assert seen.span.status.status_code is StatusCode.ERROR
    assert SECRET not in seen.everything


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("choices", [[], None])
def test_an_answer_without_choices_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, choices: Any
) -> None:
    llm = served(Reply(body=completion(choices=choices), events=[]))
    with pytest.raises(Exception):  # noqa: B017, PT011 - the exception depends on the release.
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", REASONS: ("error",)})
    assert seen.said["error.type"]
    if mode not in STREAMS:
        seen.check_usage({IN: 120, OUT: 9, "gen_ai.response.id": ID})


# --- The Responses API ---

TEXT = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Good day", "annotations": []}],
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "look_up",
    "arguments": "{}",
    "status": "completed",
}


def response(output: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_9a",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": SERVED,
        "output": list(output),
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "service_tier": "default",
        "usage": {
            "input_tokens": 240,
            "output_tokens": 30,
            "total_tokens": 270,
            "input_tokens_details": {"cached_tokens": 200},
            "output_tokens_details": {"reasoning_tokens": 16},
        },
        **fields,
    }


def response_events(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream that ends with ``answer``."""
    begun = {**answer, "status": "in_progress", "usage": None, "output": [], "incomplete_details": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for item in answer["output"]:
        if item["type"] == "message":
            part = {"output_index": 0, "item_id": item["id"], "content_index": 0}
            empty = {"type": "output_text", "text": "", "annotations": []}
            events += [
                {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
                {"type": "response.content_part.added", **part, "part": empty},
                {"type": "response.output_text.delta", **part, "delta": "Good day", "logprobs": []},
                {"type": "response.output_text.done", **part, "text": "Good day", "logprobs": []},
            ]
        else:
            events.append({"type": "response.output_item.added", "output_index": 0, "item": item})
        events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": f"response.{answer['status']}", "response": answer})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


RESPONSES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "completed": (response([TEXT]), ("stop",)),
    "cut": (
        response([TEXT], status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ("length",),
    ),
    "filtered": (
        response([TEXT], status="incomplete", incomplete_details={"reason": "content_filter"}),
        ("content_filter",),
    ),
    "a function call": (response([CALL]), ("tool_calls",)),
}


@pytest.mark.skipif(not at_least("langchain-openai", "0.3.9"), reason="has no Responses API")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", RESPONSES)
def test_the_responses_api_has_the_same_telemetry(
    served: Callable[..., Any], instrumented: Telemetry, case: str, mode: str
) -> None:
    answer, reasons = RESPONSES[case]
    llm = served(Reply(body=answer, events=response_events(answer)), prices=PRICES)
    llm.use_responses_api = True
    ask(llm, mode, previous_response_id="resp_8f")
    Seen(instrumented).check_usage(
        {
            IN: 240,
            READ: 200,
            OUT: 30,
            REASONING: 16,
            AMOUNT: 0.00042,
            REASONS: reasons,
            "gen_ai.response.id": "resp_9a",
            "gen_ai.response.model": SERVED,
            "gen_ai.request.previous_response.id": "resp_8f",
            "openai.api.type": "responses",
            "openai.response.service_tier": "default",
            "modelforge.outcome": "completed",
        }
    )


@pytest.mark.skipif(not at_least("langchain-openai", "0.3.26"), reason="does not choose the previous response")
@pytest.mark.parametrize("mode", MODES)
def test_the_previous_response_that_langchain_chooses_is_recorded(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    answer = response([TEXT], previous_response_id="resp_8f")
    llm = served(Reply(body=answer, events=response_events(answer)))
    llm.use_responses_api = llm.use_previous_response_id = True
    ask(llm, mode)
    Seen(instrumented).check({"gen_ai.response.id": "resp_9a", "gen_ai.request.previous_response.id": "resp_8f"})


@pytest.mark.skipif(not at_least("langchain-openai", "0.3.9"), reason="has no Responses API")
@pytest.mark.parametrize("mode", STREAMS)
def test_a_response_that_fails_in_its_stream_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    failed = response([], status="failed", error={"code": "server_error", "message": SECRET})
    llm = served(Reply(events=response_events(failed)))
    llm.use_responses_api = True
    # Some releases of langchain-openai skip the event, so no chunk arrives.
    with suppress(ValueError):
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", REASONS: ("error",), "gen_ai.response.id": "resp_9a"})
    assert seen.span.status.status_code is StatusCode.ERROR
    assert SECRET not in seen.everything


# --- Gemini ---

GEMINI = "gemini-2.5-flash"
GEMINI_ID = "0dPzaK3uJvWlkdUPz4-5yAg"


def gemini(text: str, reason: str | None = None, **usage: int) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    return google_response(
        {
            "candidates": [{**candidate, "finishReason": reason} if reason else candidate],
            "usageMetadata": usage,
            "modelVersion": "gemini-2.5-flash-007",
            "responseId": GEMINI_ID,
        }
    )


@pytest.mark.parametrize("mode", MODES)
def test_geminis_last_count_and_last_reason_are_those_of_the_call(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    parts = [
        gemini("Good ", "STOP", promptTokenCount=31, candidatesTokenCount=1, totalTokenCount=32),
        gemini("day", "STOP", promptTokenCount=31, candidatesTokenCount=3, totalTokenCount=34),
        # Gemini corrects its prompt count at the end.
        gemini("", "MAX_TOKENS", promptTokenCount=30, candidatesTokenCount=4, totalTokenCount=34),
    ]
    ask(served(Reply(serialized=parts), "google", GEMINI, {"input": 2, "output": 8}), mode)
    Seen(instrumented).check_usage(
        {
            IN: 30,
            OUT: 4,
            AMOUNT: 0.000092,
            REASONS: ("MAX_TOKENS",),
            "gen_ai.response.model": "gemini-2.5-flash-007",
            "gen_ai.response.id": GEMINI_ID if GOOGLE_TELLS_ID else None,
        }
    )


@COUNTS_REASONING
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("named", [True, False])
def test_tokens_of_geminis_tool_use_and_thoughts_are_priced(
    served: Callable[..., Any], instrumented: Telemetry, mode: str, named: bool
) -> None:
    usage = {
        "promptTokenCount": 40,
        "cachedContentTokenCount": 16,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 20,
        "totalTokenCount": 165,
    }
    if named:
        usage["toolUsePromptTokenCount"] = 100
    ask(served(Reply(serialized=[gemini("Good day", "STOP", **usage)]), "google", GEMINI, PRICES), mode)
    Seen(instrumented).check_usage({IN: 140, READ: 16, OUT: 25, REASONING: 20, AMOUNT: 0.000456})


GEMINI_COUNTS: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "without a total": (
        [
            gemini("Good ", promptTokenCount=31, candidatesTokenCount=4),
            gemini("day", "STOP"),
        ],
        {IN: 31, OUT: 4, AMOUNT: 0.000094},
    ),
    "without the answer": (
        [gemini("Good ", promptTokenCount=31, totalTokenCount=31), gemini("day", "STOP")],
        {IN: 31, OUT: None, AMOUNT: None},
    ),
    "an answer that only the total counts": (
        [gemini("Good day", "STOP", promptTokenCount=31, totalTokenCount=40)],
        {IN: 31, OUT: None, AMOUNT: None},
    ),
}


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("case", GEMINI_COUNTS)
def test_a_count_that_gemini_omits_is_not_0(
    served: Callable[..., Any], instrumented: Telemetry, case: str, mode: str
) -> None:
    parts, expected = GEMINI_COUNTS[case]
    ask(served(Reply(serialized=parts), "google", GEMINI, {"input": 2, "output": 8}), mode)
    Seen(instrumented).check({REASONS: ("STOP",), **expected})


@pytest.mark.parametrize("mode", MODES)
def test_a_blocked_prompt_is_a_finish_reason(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12},
        "modelVersion": "gemini-2.5-flash-007",
    }
    ask(served(Reply(serialized=[google_response(blocked)]), "google", GEMINI), mode)
    seen = Seen(instrumented)
    seen.check({REASONS: ("SAFETY",), IN: 12, "gen_ai.response.model": "gemini-2.5-flash-007"})


# --- Ollama ---


def ollama(*lines: Mapping[str, Any]) -> Reply:
    return Reply(
        events=[{"model": "llama3:8b", "message": {"role": "assistant", "content": ""}, **line} for line in lines]
    )


GOOD = {"message": {"role": "assistant", "content": "Good day"}, "done": False}


@pytest.mark.parametrize("mode", MODES)
def test_ollama_counts_cached_tokens(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    last = {"done": True, "done_reason": "length", "prompt_eval_count": 50, "prompt_eval_cached_count": 48}
    ask(served(ollama(GOOD, {**last, "eval_count": 6}), "ollama", "llama3"), mode)
    Seen(instrumented).check_usage(
        {IN: 50, READ: 48, OUT: 6, REASONS: ("length",), "gen_ai.response.model": "llama3:8b", AMOUNT: None}
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_that_ollama_did_not_count_has_no_tokens(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    """Servers that imitate Ollama report this for a cached prompt, with counts of another type."""
    last = {"done": True, "done_reason": "stop", "prompt_eval_count": 0, "eval_count": 6.0}
    ask(served(ollama(GOOD, last), "ollama", "llama3"), mode)
    seen = Seen(instrumented)
    seen.check({IN: None, OUT: 6})
    assert seen.tokens() == {"output": 6}


@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_ollamas_stream_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    llm = served(
        Reply(events=[{"model": "llama3", **GOOD}, {"error": f"model runner stopped: {SECRET}"}]), "ollama", "llama3"
    )
    # Some releases of langchain-community cannot read such a line.
    with suppress(Exception):
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", REASONS: ("error",)})
    assert seen.said["error.type"]
    assert seen.span.status.status_code is StatusCode.ERROR
    assert SECRET not in seen.everything


# --- GitHub Copilot ---


@pytest.mark.parametrize("mode", MODES)
def test_copilots_usage_is_read_if_it_is_sent(served: Callable[..., Any], instrumented: Telemetry, mode: str) -> None:
    ask(served(Reply(body=completion()), "github_copilot", "gpt-4o"), mode)
    # Copilot is a subscription.
    Seen(instrumented).check_usage({IN: 120, OUT: 9, REASONS: ("stop",), "gen_ai.response.id": ID, AMOUNT: None})


@pytest.mark.parametrize("mode", MODES)
def test_a_copilot_answer_without_choices_is_not_completed(
    served: Callable[..., Any], instrumented: Telemetry, mode: str
) -> None:
    llm = served(Reply(body=completion(choices=[])), "github_copilot", "gpt-4o")
    # LangChain requires a generation.
    with suppress(Exception):
        ask(llm, mode)
    seen = Seen(instrumented)
    seen.check({"modelforge.outcome": "failed", REASONS: ("error",)})
    assert seen.span.status.status_code is StatusCode.ERROR
