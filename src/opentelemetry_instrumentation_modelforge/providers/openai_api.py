# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Answers of OpenAI's two APIs, chat completions and responses, from OpenAI and from compatible servers."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from ..response import Response, Usage
from ..semconv import OPENAI_API_TYPE_CHAT_COMPLETIONS, OPENAI_API_TYPE_RESPONSES
from ..values import NOTHING, count, items, mapping, model_name, short_text
from .langchain import read_result
from .openai_usage import fields, is_charged, names_price, read_price, read_usage
from .provider import Answer

ERROR_RESPONSE: Final = "error_response"
"""``error.type`` of an answer that is an error without a short code."""
EMPTY_RESPONSE: Final = "empty_response"
"""``error.type`` of an answer without choices."""

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z_.-]{0,63}|[0-9]{1,5}")

# The values of ``object`` in answers of OpenAI's other APIs.
_OTHER_OBJECTS: Final = frozenset({"list", "file", "model", "batch", "upload", "vector_store", "transcription"})

# Finish reasons of a generation that failed: "error" at OpenRouter (openrouter.ai/docs/api-reference/errors), Mistral
# (docs.mistral.ai/api) and vLLM, the others at Zhipu (docs.z.ai/api-reference/llm/chat-completion) and DeepSeek
# (api-docs.deepseek.com/api/create-chat-completion).
_FAILURES: Final = ("error", "network_error", "insufficient_system_resource")

# The GenAI conventions' equivalents of the Responses API's reasons.
_INCOMPLETE: Final = {"max_output_tokens": "length"}
_FUNCTION_CALLS: Final = frozenset({"function_call", "custom_tool_call"})


class OpenAIAnswer(Answer):
    """One answer of chat completions or of the Responses API, whole or in chunks.

    Usage, finish reasons, service tier and fingerprint come from the last chunk that has them: usage counts up, and
    the tier is "auto" at first. The id and the model come from the first chunk that has them, which need not be the
    first chunk (Azure).

    An application may use the ``openai`` package in a callback, which runs in the context of the call. Answers to the
    application's own clients do not belong to the call, nor do answers from other APIs, such as embeddings.

    :param client: the fields of the LangChain model, with its ``openai`` clients; empty to accept any client.
    """

    __slots__ = (
        "_client",
        "_completion",
        "_empty",
        "_error",
        "_fingerprint",
        "_first_prompt",
        "_has_choices",
        "_id",
        "_model",
        "_priced",
        "_prompt",
        "_reasons",
        "_response",
        "_seen",
        "_source",
        "_tier",
        "_timings",
        "_usage",
    )

    def __init__(self, client: Mapping[str, object] = NOTHING) -> None:
        self._client = client
        self._source: object = None
        self._seen = False
        self._id: object = None
        self._model: object = None
        self._tier: object = None
        self._fingerprint: object = None
        self._error: object = None
        self._empty = self._has_choices = False
        self._reasons: dict[int, object] = {}
        self._usage = NOTHING
        self._first_prompt = self._prompt = self._completion = NOTHING
        self._priced = NOTHING
        self._timings = NOTHING
        self._response: Mapping[str, object] | None = None

    def add(self, raw: object, source: object = None) -> None:
        """Take a whole answer or one chunk, as decoded JSON or as a model of the ``openai`` package.

        :param source: the ``openai`` client that received it.
        """
        if source is not self._source and not self._accept(source):
            return
        body = fields(raw)
        get = body.get
        choices = get("choices")
        if not choices and _is_not_of_a_chat(body):
            return
        self._seen = True
        if not self._id:
            self._id = get("id")
        if not self._model:
            self._model = get("model")
        if tier := get("service_tier"):
            self._tier = tier
        if fingerprint := get("system_fingerprint"):
            self._fingerprint = fingerprint
        if usage := get("usage"):
            self._add_usage(usage)
        if choices:
            self._empty, self._has_choices = False, True
            for position, entry in enumerate(items(choices)):
                choice = fields(entry)
                if (reason := choice.get("finish_reason")) or "usage" in choice or "error" in choice:
                    self._add_finish(reason, choice, position)
        elif not self._reasons:
            self._add_without_choices(body)
        if "error" in body or "x_groq" in body or "timings" in body or "cost" in body:
            self._add_extras(body)

    def _accept(self, source: object) -> bool:
        """Return whether ``source`` is a client of the model, and remember it if so."""
        get = self._client.get
        own = (
            get("root_client"),
            get("root_async_client"),
            # An application may give a model other clients.
            *(getattr(get(name), "_client", None) for name in ("client", "async_client")),
        )
        if any(source is client for client in own) or own.count(None) == len(own):
            self._source = source
            return True
        return False

    def _add_without_choices(self, body: Mapping[str, object]) -> None:
        kind = body.get("object") or body.get("type")
        if kind == "response":
            self._response = body
        elif kind == "error":
            self._error = body
        elif isinstance(kind, str) and kind.startswith("response."):
            self._response = fields(body.get("response")) or self._response
        elif kind != "chat.completion.chunk":
            self._empty = not self._has_choices

    def _add_extras(self, body: Mapping[str, object]) -> None:
        # Groq: console.groq.com/docs/api-reference
        groq = fields(body.get("x_groq"))
        self._error = body.get("error") or groq.get("error") or self._error
        # llama.cpp: github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
        self._timings = fields(body.get("timings")) or self._timings
        if usage := groq.get("usage"):
            self._add_usage(usage)
        # OpenCode Zen, in a chunk after the usage: github.com/anomalyco/opencode/issues/39061
        if "cost" in body and not self._priced:
            self._priced = {"cost": body["cost"]}

    def _add_usage(self, reported: object) -> None:
        usage = fields(reported)
        get = usage.get
        if get("prompt_tokens") or get("input_tokens"):
            self._usage = self._prompt = usage
            if not self._first_prompt:
                self._first_prompt = usage
        if get("completion_tokens") or get("output_tokens"):
            self._usage = self._completion = usage
        if names_price(usage) and (is_charged(usage) or not is_charged(self._priced)):
            self._priced = usage

    def _add_finish(self, reason: object, choice: Mapping[str, object], position: int) -> None:
        if reason:
            index = choice.get("index")
            self._reasons[index if type(index) is int else position] = reason
        if error := choice.get("error") or (reason in _FAILURES and {"code": reason}):
            self._error = error
        # Moonshot: platform.moonshot.ai/docs/api/chat
        if usage := choice.get("usage"):
            self._add_usage(usage)

    def add_chunk(self, chunk: object) -> None:
        """Take LangChain's chunk, unless raw chunks are read."""
        if self._seen:
            return
        if (attached := getattr(chunk, "generation_info", None)) and (info := mapping(attached)):
            self._model = self._model or info.get("model_name")
            self._tier = info.get("service_tier") or self._tier
            self._fingerprint = info.get("system_fingerprint") or self._fingerprint
            if reason := info.get("finish_reason"):
                self._reasons[0] = reason
        # Runs for each chunk, and getattr with a default takes several times as long if the attribute exists.
        try:
            usage = chunk.message.usage_metadata  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        except AttributeError:
            return
        if usage:
            self._add_usage(cast("object", usage))

    def response(self, generations: Sequence[object], llm_output: object) -> Response:
        """Return the provider's own answer, or LangChain's version if no raw answer was read."""
        if self._response is not None:
            return _responses_api(self._response, self._error)
        if self._seen:
            return self._chat_completion()
        if not (self._usage or self._reasons):
            return read_result(generations, llm_output)
        # LangChain joins the finish reasons of a stream's chunks, and adds up their usage.
        usage = read_usage(self._usage) if self._usage else None
        chunks = Response(None, model_name(self._model), self._finish_reasons(), usage)
        return read_result(generations, llm_output, chunks)

    def _finish_reasons(self) -> tuple[str, ...]:
        return tuple(filter(None, (short_text(reason) for _, reason in sorted(self._reasons.items()))))

    def _chat_completion(self) -> Response:
        usage = self._read_usage() if self._usage else None
        if self._timings:
            usage = _with_timings(usage, self._timings)
        return Response(
            id=short_text(self._id),
            model=model_name(self._model),
            finish_reasons=self._finish_reasons(),
            usage=usage,
            cost=read_price(self._priced) if self._priced else None,
            # Proxies leave Anthropic's in the usage: platform.claude.com/docs/en/api/service-tiers
            service_tier=short_text(self._tier or self._usage.get("service_tier")),
            system_fingerprint=short_text(self._fingerprint),
            error=_error_code(self._error) if self._error else EMPTY_RESPONSE if self._empty else None,
            api_type=OPENAI_API_TYPE_CHAT_COMPLETIONS,
        )

    def _read_usage(self) -> Usage | None:
        """Return the last usage, with any count that it lacks taken from the chunk that has it."""
        usage = read_usage(self._usage)
        if usage is None or (self._usage is self._first_prompt and usage.output_tokens):
            return usage
        if not usage.output_tokens and self._completion:
            usage = _with_output_of(read_usage(self._completion), usage)
        if usage.input_tokens is None and self._prompt and (prompt := read_usage(self._prompt)):
            # Proxies that translate Anthropic's events count the prompt in the first chunk only (message_start).
            usage = _with_output_of(usage, prompt)
        if usage.cache_read_input_tokens is None and usage.cache_write_input_tokens is None:
            first = read_usage(self._first_prompt)
            if first is not None and first.input_tokens == usage.input_tokens:
                usage = usage._replace(
                    cache_read_input_tokens=first.cache_read_input_tokens,
                    cache_write_input_tokens=first.cache_write_input_tokens,
                    cache_write_1h_input_tokens=first.cache_write_1h_input_tokens,
                )
        return usage


def _with_output_of(usage: Usage | None, prompt: Usage) -> Usage:
    """Return ``prompt`` with the output counts of ``usage``."""
    if usage is None:
        return prompt
    return prompt._replace(
        output_tokens=usage.output_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
        audio_output_tokens=usage.audio_output_tokens,
    )


def _is_not_of_a_chat(body: Mapping[str, object]) -> bool:
    """Return whether a body without choices is an answer from another API: embeddings, moderations, files, images."""
    kind = body.get("object")
    if kind is None:
        return "results" in body or isinstance(body.get("data"), list)
    return isinstance(kind, str) and kind in _OTHER_OBJECTS


def _error_code(error: object) -> str:
    """Return the error's code or type if it is short and low in cardinality, else a general value."""
    members = fields(error)
    for name in ("code", "type"):
        code = members.get(name)
        if type(code) in (int, str) and code != "error" and _CODE.fullmatch(str(code)):
            return str(code)
    return ERROR_RESPONSE


def _with_timings(usage: Usage | None, timings: Mapping[str, object]) -> Usage | None:
    """Complete ``usage`` with llama.cpp's counts of processed, reused and generated tokens."""
    processed, reused, generated = (count(timings.get(name)) for name in ("prompt_n", "cache_n", "predicted_n"))
    if processed is None or reused is None:
        return usage
    if usage is None:
        return Usage(processed + reused, generated, reused) if generated is not None else None
    if usage.cache_read_input_tokens is None and usage.input_tokens == processed + reused:
        return usage._replace(cache_read_input_tokens=reused)
    return usage


def _responses_api(response: Mapping[str, object], error: object) -> Response:
    """Read a ``Response`` object of the Responses API. The first and the last event of a stream carry one too.

    :param error: the stream's ``error`` event.
    """
    usage = fields(response.get("usage"))
    status = response.get("status")
    error = response.get("error") or error
    return Response(
        id=short_text(response.get("id")),
        model=model_name(response.get("model")),
        finish_reasons=_finish_reasons(response),
        usage=read_usage(usage),
        cost=read_price(usage),
        service_tier=short_text(response.get("service_tier")),
        error=_error_code(error) if error or status == "failed" else None,
        api_type=OPENAI_API_TYPE_RESPONSES,
        previous_response_id=short_text(response.get("previous_response_id")),
    )


def _finish_reasons(response: Mapping[str, object]) -> tuple[str, ...]:
    status = response.get("status")
    if status == "completed":
        called = any(fields(item).get("type") in _FUNCTION_CALLS for item in items(response.get("output")))
        return ("tool_calls" if called else "stop",)
    if status == "incomplete":
        reason = short_text(fields(response.get("incomplete_details")).get("reason"))
        return (_INCOMPLETE.get(reason, reason),) if reason else ()
    return ("error",) if status in ("failed", "cancelled") else ()
