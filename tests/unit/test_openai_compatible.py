"""Answers of OpenAI's APIs, in the spellings of OpenAI and compatible servers."""

from __future__ import annotations

import copy
import json
import math
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from opentelemetry_instrumentation_modelforge.providers.openai_api import OpenAIAnswer
from opentelemetry_instrumentation_modelforge.providers.openai_compatible import OpenAICompatible
from opentelemetry_instrumentation_modelforge.providers.openai_usage import read_price, read_usage
from opentelemetry_instrumentation_modelforge.response import Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS = {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}
PROVIDER = OpenAICompatible()


def chunk(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": "Hi"}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-31",
        "object": "chat.completion.chunk",
        "model": "model-2026",
        "choices": [choice],
        "usage": None,
        **fields,
    }


def completion(**fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    return {
        "id": "chatcmpl-32",
        "object": "chat.completion",
        "created": 1,
        "model": "model-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": TOKENS,
        **fields,
    }


def response(**fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_33",
        "object": "response",
        "status": "completed",
        "error": None,
        "model": "model-2026",
        "service_tier": "default",
        "output": [{"type": "message", "content": []}],
        "usage": {
            "input_tokens": 30,
            "output_tokens": 8,
            "total_tokens": 38,
            "input_tokens_details": {"cached_tokens": 12},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        **fields,
    }


def read(*bodies: object) -> Response:
    answer = OpenAIAnswer()
    for body in bodies:
        answer.add(body)
    return answer.response((), None)


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
            {"cache_read_input_tokens": 9, "total_tokens": 50}, Usage(30, 8, 9), id="unexplained beside a cache"
        ),
        pytest.param({"prompt_tokens_details": {"audio_tokens": 31}}, Usage(30, 8), id="more audio than sent"),
        pytest.param({"completion_tokens_details": {"audio_tokens": 9}}, Usage(30, 8), id="more audio than answered"),
        pytest.param({"prompt_tokens": 30.0, "completion_tokens": 8.0}, Usage(30, 8), id="floats"),
        pytest.param({"prompt_tokens": 30.5}, Usage(None, 8), id="half a token"),
        pytest.param({"prompt_tokens": "30"}, Usage(None, 8), id="text"),
        pytest.param({"prompt_tokens": True}, Usage(None, 8), id="boolean"),
        pytest.param({"prompt_tokens": -1}, Usage(None, 8), id="negative"),
        pytest.param({"prompt_tokens": 2**53}, Usage(None, 8), id="no integer of JSON"),
        pytest.param({"prompt_tokens": 0}, Usage(None, 8), id="prompt from a cache, not counted"),
        pytest.param({"completion_tokens": None}, Usage(30), id="no completion"),
        pytest.param({"completion_tokens": 0, "total_tokens": 30}, Usage(30, 0), id="empty completion"),
        pytest.param({"prompt_tokens_details": [1], "completion_tokens_details": "x"}, Usage(30, 8), id="no objects"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None, id="zeros"),
        pytest.param({"prompt_tokens": None, "completion_tokens": None}, None, id="nulls"),
    ],
)
def test_a_count_that_cannot_be_is_left_out(usage: dict[str, Any], expected: Usage | None) -> None:
    assert read_usage({**TOKENS, **usage}) == expected


def test_reasoning_without_a_total_is_beside_where_it_cannot_be_inside() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 9}}
    assert read_usage(usage) == Usage(30, 17, reasoning_output_tokens=9)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"cost": 0.25}, 0.25, id="OpenRouter"),
        pytest.param({"cost": 0}, 0.0, id="free"),
        pytest.param({"cost": {"request_cost": 0.125, "total_cost": 0.25}}, 0.25, id="Perplexity"),
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
        pytest.param({"cost": 0.25, "cost_details": {"upstream_inference_cost": None}}, 0.25, id="no upstream price"),
        pytest.param({"cost": 0.25, "is_byok": True}, None, id="own key, only the fee"),
        pytest.param({"cost": -1}, None, id="negative"),
        pytest.param({"cost": math.nan}, None, id="NaN"),
        pytest.param({"cost": math.inf}, None, id="infinite"),
        pytest.param({"cost": True}, None, id="boolean"),
        pytest.param({"cost": "0.25"}, None, id="text"),
        pytest.param({"cost": {"total_cost": "?"}}, None, id="object without a price"),
        pytest.param({"cost": None, "estimated_cost": 0.25}, 0.25, id="null beside a price"),
        pytest.param({}, None, id="no price"),
    ],
)
def test_every_spelling_of_a_price(usage: dict[str, Any], expected: float | None) -> None:
    assert read_price(usage) == expected


def test_a_whole_answer() -> None:
    body = completion(service_tier="flex", system_fingerprint="fp_1", usage={**TOKENS, "cost": 0.5})
    expected = Response(
        id="chatcmpl-32",
        model="model-2026",
        finish_reasons=("stop",),
        usage=Usage(30, 8),
        cost=0.5,
        service_tier="flex",
        system_fingerprint="fp_1",
        api_type="chat_completions",
    )
    assert read(body) == expected
    assert read(ChatCompletion.construct(**copy.deepcopy(body))) == expected


def test_every_choice_has_its_reason() -> None:
    choices = [{"index": index, "message": {}, "finish_reason": reason} for index, reason in enumerate("ab")]
    assert read(completion(choices=choices[::-1])).finish_reasons == ("a", "b")
    for choice in choices:
        del choice["index"]
    assert read(completion(choices=choices)).finish_reasons == ("a", "b")


def test_a_stream_counts_up_and_its_last_count_is_the_one() -> None:
    counts = [{"prompt_tokens": 30, "completion_tokens": n, "total_tokens": 30 + n} for n in (1, 2, 3)]
    streamed = read(*(chunk(usage=count) for count in counts), chunk("stop", usage=counts[-1]))
    assert streamed.usage == Usage(30, 3)
    assert streamed.finish_reasons == ("stop",)


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({}, id="null"),
        pytest.param({"usage": {}}, id="empty"),
        pytest.param({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, id="zeros"),
        pytest.param({"usage": "none"}, id="text"),
        pytest.param({"usage": {"cost": 0.5}}, id="price alone"),
    ],
)
def test_a_chunk_without_tokens_takes_none_away(last: dict[str, Any]) -> None:
    assert read(chunk(usage=TOKENS), chunk("stop"), chunk(choices=[], **last)).usage == Usage(30, 8)


def test_a_price_after_the_tokens_and_before_them() -> None:
    assert read(chunk(usage=TOKENS), chunk(choices=[], usage={"cost": 0.5})).cost == 0.5
    assert read(chunk(usage={**TOKENS, "cost": 0.5}), chunk(choices=[], usage=TOKENS)).cost == 0.5


def test_the_prompt_may_be_counted_in_the_first_chunk_and_the_completion_in_the_last() -> None:
    first = {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 12}}
    streamed = read(chunk(usage=first), chunk("stop", usage={"completion_tokens": 8}))
    assert streamed.usage == Usage(30, 8, 12)


def test_what_a_stream_repeats_is_said_once() -> None:
    first = {"id": "", "model": "", "choices": [], "object": "chat.completion.chunk", "prompt_filter_results": []}
    streamed = read(first, chunk(service_tier="auto"), chunk("stop", service_tier="default"), chunk("stop"))
    assert streamed == Response(
        id="chatcmpl-31",
        model="model-2026",
        finish_reasons=("stop",),
        service_tier="default",
        api_type="chat_completions",
    )


def test_a_stream_of_two_choices_has_the_last_reason_of_each() -> None:
    streamed = read(chunk(), chunk(index=1), chunk("length", index=1), chunk("tool_calls"), chunk("stop"))
    assert streamed.finish_reasons == ("stop", "length")


def test_groq_puts_a_streams_usage_into_a_field_of_its_own() -> None:
    streamed = read(chunk(x_groq={"id": "req_1"}), chunk("stop", x_groq={"id": "req_1", "usage": TOKENS}))
    assert streamed.usage == Usage(30, 8)


def test_moonshot_puts_a_streams_usage_into_the_choice() -> None:
    last = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**TOKENS, "cached_tokens": 12}}
    assert read(chunk(), chunk(choices=[last])).usage == Usage(30, 8, 12)


def test_llama_cpp_counts_what_it_reused() -> None:
    timings = {"cache_n": 18, "prompt_n": 12, "predicted_n": 8}
    assert read(chunk(), chunk("stop", timings=timings)).usage == Usage(30, 8, 18)
    assert read(chunk("stop", timings=timings), chunk(choices=[], usage=TOKENS)).usage == Usage(30, 8, 18)
    assert read(chunk("stop", timings={"prompt_n": 12, "predicted_n": 8})).usage is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "rate_limit_exceeded", "message": "a secret"}, "rate_limit_exceeded"),
        ({"code": 502, "message": "a secret"}, "502"),
        ({"code": None, "type": "invalid_request_error"}, "invalid_request_error"),
        ({"code": "for user 81723 at 12:04"}, "error_response"),
        ("a secret", "error_response"),
    ],
)
def test_an_answer_that_is_an_error_though_http_said_200(error: object, expected: str) -> None:
    assert read({"error": error, "user_id": "u"}).error == expected
    choice = {"index": 0, "message": {}, "finish_reason": "error", "error": error}
    failed = read(completion(choices=[choice]))
    assert (failed.error, failed.finish_reasons) == (expected, ("error",))


@pytest.mark.parametrize("choices", [None, []])
def test_an_answer_without_choices_is_not_complete(choices: object) -> None:
    empty = read(completion(choices=choices))
    assert (empty.error, empty.usage) == ("empty_response", Usage(30, 8))


def test_a_streams_last_chunk_has_no_choices() -> None:
    assert read(chunk("stop"), chunk(choices=[], usage=TOKENS)).error is None


@pytest.mark.parametrize(
    ("fields", "reasons", "error"),
    [
        pytest.param({}, ("stop",), None, id="completed"),
        pytest.param({"output": [{"type": "reasoning"}, {"type": "function_call"}]}, ("tool_calls",), None, id="call"),
        pytest.param({"output": [{"type": "custom_tool_call"}]}, ("tool_calls",), None, id="custom tool"),
        pytest.param(
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ("length",),
            None,
            id="length",
        ),
        pytest.param(
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            ("content_filter",),
            None,
            id="filter",
        ),
        pytest.param(
            {"status": "failed", "error": {"code": "server_error", "message": "a secret"}},
            ("error",),
            "server_error",
            id="failed",
        ),
        pytest.param({"status": "failed"}, ("error",), "error_response", id="failed without a reason"),
        pytest.param({"status": "cancelled"}, ("error",), None, id="cancelled"),
        pytest.param({"status": "in_progress"}, (), None, id="left before its end"),
    ],
)
def test_the_responses_api(fields: dict[str, Any], reasons: tuple[str, ...], error: str | None) -> None:
    expected = Response(
        id="resp_33",
        model="model-2026",
        finish_reasons=reasons,
        usage=Usage(30, 8, 12, None, 5),
        service_tier="default",
        error=error,
        api_type="responses",
    )
    body = response(**fields)
    assert read(body) == expected
    created = {"type": "response.created", "response": response(status="in_progress", usage=None, service_tier="auto")}
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"}
    assert read(created, delta, {"type": f"response.{body['status']}", "response": body}) == expected


def test_an_error_event_ends_a_stream_of_the_responses_api() -> None:
    created = {"type": "response.created", "response": response(status="in_progress", usage=None)}
    failed = read(created, {"type": "error", "code": "rate_limit_exceeded", "message": "a secret"})
    assert (failed.id, failed.error, failed.finish_reasons) == ("resp_33", "rate_limit_exceeded", ())


KEYS = ("id", "model", "choices", "usage", "error", "object", "type", "response", "output", "index", "finish_reason")
KEYS += ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens", "cost")
KEYS += ("x_groq", "timings", "prompt_n", "cache_n", "predicted_n", "status", "incomplete_details", "reason", "code")
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(2**70), 2**63, "completed", "incomplete", "response", "chat.completion", "\ud800"])
    | st.builds(object)
    | st.builds(SimpleNamespace, usage=st.just({"prompt_tokens": 1})),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


@given(st.lists(ANYTHING, max_size=4))
def test_whatever_is_answered_is_of_the_right_type_or_left_out(bodies: list[Any]) -> None:
    answered = read(*bodies)
    for value in (answered.id, answered.model, answered.service_tier, answered.system_fingerprint, answered.error):
        assert type(value) in (str, type(None))
        (value or "").encode()
    assert all(type(reason) is str and reason for reason in answered.finish_reasons)
    assert answered.cost is None or (type(answered.cost) is float and math.isfinite(answered.cost))
    assert all(count is None or (type(count) is int and 0 <= count < 2**63) for count in answered.usage or ())


def langchain_chunk(finish_reason: str | None = None, **usage: Any) -> ChatGenerationChunk:
    info = {"finish_reason": finish_reason, "model_name": "model-2026"} if finish_reason else None
    return ChatGenerationChunk(message=AIMessageChunk("Hi", usage_metadata=usage or None), generation_info=info)


def test_langchains_chunks_are_read_where_the_raw_ones_do_not_pass() -> None:
    answer = OpenAIAnswer()
    count = {"input_tokens": 30, "total_tokens": 38, "input_token_details": {"cache_read": 12}}
    chunks = [
        langchain_chunk(output_tokens=4, **count),
        langchain_chunk("stop", output_tokens=8, **count),
        langchain_chunk("stop"),
    ]
    for streamed in chunks:
        answer.add_chunk(streamed)
    merged = chunks[0] + chunks[1] + chunks[2]
    assert merged.generation_info is not None
    assert merged.generation_info["finish_reason"] == "stopstop"
    assert answer.response([merged], None) == Response(
        model="model-2026", finish_reasons=("stop",), usage=Usage(30, 8, 12)
    )


def test_langchains_chunks_do_not_count_beside_raw_ones() -> None:
    answer = OpenAIAnswer()
    answer.add(chunk("stop", usage=TOKENS))
    answer.add_chunk(langchain_chunk("length", input_tokens=1, output_tokens=1, total_tokens=2))
    assert (answer.response([], None).usage, answer.response([], None).finish_reasons) == (Usage(30, 8), ("stop",))


def test_langchains_result_is_the_last_resort() -> None:
    answer = OpenAIAnswer()
    output = {"token_usage": TOKENS, "model_name": "model-2026", "id": "chatcmpl-32", "service_tier": "flex"}
    result = [ChatGeneration(message=AIMessage("Hi"), generation_info={"finish_reason": "stop"})]
    assert answer.response(result, output) == Response(
        id="chatcmpl-32", model="model-2026", finish_reasons=("stop",), usage=Usage(30, 8), service_tier="flex"
    )


def test_an_answer_from_a_cache_cost_nothing() -> None:
    usage: Any = {"input_tokens": 30, "output_tokens": 8, "total_tokens": 38, "total_cost": 0}
    result = [ChatGeneration(message=AIMessage("Hi", usage_metadata=usage))]
    assert OpenAIAnswer().response(result, {"token_usage": {**TOKENS, "cost": 1}}) == Response(cached=True)


# Where the raw answer is read.


class Invoice(BaseModel):
    number: int


class Server(ThreadingHTTPServer):
    daemon_threads = True
    body: dict[str, Any] | list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body, kind = json.dumps(self.server.body), "application/json"
        if isinstance(self.server.body, list):
            events = [*map(json.dumps, self.server.body), "[DONE]"]
            body, kind = "".join(f"data: {event}\n\n" for event in events), "text/event-stream"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def client(server: Server, **fields: Any) -> ChatOpenAI:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return ChatOpenAI(model="gpt-4o-mini", api_key="sk-none", base_url=url, max_retries=0, **fields)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> OpenAIAnswer:
    """Return the answer of the test's call, filled by the provider's tap."""
    answer = OpenAIAnswer()
    (tap,) = PROVIDER.taps
    owner = openai._base_client.BaseClient
    assert (tap.module, tap.owner) == (owner.__module__, owner.__name__)
    original = getattr(owner, tap.name)

    def tapped(*args: Any, **kwargs: Any) -> object:
        answer.add(args[tap.position] if len(args) > tap.position else kwargs[tap.keyword])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, tap.name, tapped)
    return answer


def test_a_call_is_tapped(server: Server, answer: OpenAIAnswer) -> None:
    server.body = completion()
    client(server).invoke("Hi")
    assert answer.response((), None) == read(completion())


def test_a_stream_is_tapped(server: Server, answer: OpenAIAnswer) -> None:
    server.body = [chunk(), chunk("stop"), chunk(choices=[], usage=TOKENS)]
    list(client(server, stream_usage=True).stream("Hi"))
    assert answer.response((), None) == read(*server.body)
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_a_structured_answer_that_cannot_be_parsed_was_billed(
    server: Server, answer: OpenAIAnswer, reason: str
) -> None:
    message = {"role": "assistant", "content": '{"number": "none"}'}
    server.body = completion(choices=[{"index": 0, "message": message, "finish_reason": reason}])
    with pytest.raises((ValueError, openai.OpenAIError)):
        client(server).with_structured_output(Invoice, method="json_schema").invoke("Hi")
    assert answer.response((), None) == read(server.body)
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_structured_stream_that_is_cut_short_has_its_reason(
    server: Server, answer: OpenAIAnswer, reason: str
) -> None:
    server.body = [chunk(), chunk(reason)]
    with pytest.raises(openai.OpenAIError):
        list(client(server).with_structured_output(Invoice, method="json_schema").stream("Hi"))
    assert answer.response((), None).finish_reasons == (reason,)


# The client.


def test_the_url_is_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_BASE", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other:1/v1")
    assert PROVIDER.client_url(vars(ChatOpenAI(api_key="k", base_url="http://host:8/v1"))) == "http://host:8/v1/"
    assert PROVIDER.client_url(vars(ChatOpenAI(api_key="k"))) == "http://other:1/v1/"
    assert PROVIDER.client_url({"root_client": MagicMock()}) is None
    assert PROVIDER.client_url({}) is None


def test_headers_and_the_proxy_may_hold_credentials_too() -> None:
    llm = ChatOpenAI(api_key="key-1", default_headers={"x-key": "key-2"}, openai_proxy="http://u:key-3@proxy:1")
    values = (value for value in PROVIDER.client_credentials(vars(llm)) if value is not None)
    key, *others = cast("Iterator[Any]", values)
    assert key.get_secret_value() == "key-1"
    assert others == [{"x-key": "key-2"}, "http://u:key-3@proxy:1"]


def test_usage_is_asked_for_as_the_application_would() -> None:
    llm, same = (ChatOpenAI(api_key="k", base_url="http://host/v1") for _ in range(2))
    PROVIDER.request_stream_usage(llm)
    same.stream_usage = True
    assert llm.stream_usage is True
    assert llm.model_fields_set == same.model_fields_set
    assert pickle.loads(pickle.dumps(llm.model_dump())) == same.model_dump()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stream_usage": False}, False),
        ({"model_kwargs": {"stream_options": {"include_usage": False}}}, False),
        ({"model_kwargs": {"stream_options": {"chunk_size": 1}}}, True),
    ],
)
def test_an_application_that_has_decided_on_usage_is_left_alone(fields: dict[str, Any], expected: bool) -> None:
    llm = ChatOpenAI(api_key="k", base_url="http://host/v1", **fields)
    PROVIDER.request_stream_usage(llm)
    assert bool(llm.stream_usage) is expected


@pytest.mark.parametrize("other", [object(), MagicMock(), SimpleNamespace()])
def test_no_usage_is_asked_of_what_is_no_model(other: object) -> None:
    PROVIDER.request_stream_usage(other)


def sent(llm: ChatOpenAI, **kwargs: Any) -> dict[str, object]:
    merged: dict[str, object] = {}
    for params in PROVIDER.request_parameters(llm._get_invocation_params(**kwargs), vars(llm)):
        merged |= params
    return merged


@pytest.mark.parametrize(
    ("fields", "kwargs", "name", "expected"),
    [
        ({"max_tokens": 50}, {}, "max_completion_tokens", 50),
        ({"max_tokens": 50}, {"max_tokens": 20}, "max_completion_tokens", 20),
        ({"max_tokens": 50}, {"max_completion_tokens": 20}, "max_completion_tokens", 20),
        ({"temperature": 0.5}, {"temperature": 1.0}, "temperature", 1.0),
        ({"model_kwargs": {"modalities": ["audio"]}}, {}, "modalities", ["audio"]),
        ({"model_kwargs": {"modalities": ["audio"]}}, {"modalities": ["text"]}, "modalities", ["text"]),
        ({"extra_body": {"top_k": 40}}, {}, "top_k", 40),
        ({"extra_body": {"seed": 3}, "seed": 2}, {}, "seed", 3),
        ({"extra_body": {"reasoning": {"effort": "high"}}}, {}, "reasoning_effort", "high"),
        ({"reasoning_effort": "low"}, {}, "reasoning_effort", "low"),
        ({}, {"reasoning": {"effort": "high"}}, "reasoning_effort", "high"),
        ({}, {"previous_response_id": "resp_1"}, "previous_response_id", "resp_1"),
        ({}, {"text": {"format": {"type": "json_schema"}}}, "response_format", {"type": "json_schema"}),
    ],
)
def test_parameters_are_those_that_are_sent(
    fields: dict[str, Any], kwargs: dict[str, Any], name: str, expected: object
) -> None:
    assert sent(ChatOpenAI(api_key="k", base_url="http://host/v1", **fields), **kwargs)[name] == expected
