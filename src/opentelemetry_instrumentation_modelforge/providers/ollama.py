# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``ollama``: ``ChatOllama`` of langchain-community, and the lines of JSON that Ollama's ``/api/chat`` streams.

The API: https://docs.ollama.com/api/chat, its counts: https://docs.ollama.com/api/usage.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..response import Response, Usage
from ..values import NOTHING, count, items, mapping, model_name, short_text
from .langchain import read_result
from .openai_usage import whole
from .provider import Answer, Provider, Tap

# The names of the request's options that have an attribute: https://docs.ollama.com/modelfile.
_OPTIONS: Final = (
    "temperature",
    "top_k",
    "top_p",
    "num_predict",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
)

# Some of the options that the model always lists, set or not.
_OWN_OPTIONS: Final = frozenset(("mirostat", "num_ctx", "num_predict", "temperature", "stop"))

ERROR: Final = "server_error"
"""The ``error.type`` of a stream in which Ollama reports an error; its text has no code."""
INCOMPLETE: Final = "incomplete_response"
"""The ``error.type`` of a stream that ends without the line that marks the answer as done."""


class Ollama(Provider):
    """Ollama's own API, for models that run locally."""

    paid_by_token = False
    # invoke reads a stream too.
    taps = (
        Tap(
            "langchain_community.chat_models.ollama",
            None,
            "_chat_stream_response_to_chat_generation_chunk",
            0,
            "stream_response",
        ),
    )

    def api_model(self, alias: str, model_data: Mapping[str, object]) -> str:
        """Return the alias, which ModelForge sends unchanged, regardless of ``api_model_name``."""
        return alias

    def client_credentials(self, client: Mapping[str, object]) -> Iterator[object]:
        """Yield the fields of the model, and the password in ``auth``."""
        yield from client.values()
        auth = items(client.get("auth"))
        if len(auth) == 2:
            yield {"authorization": auth[1]}

    def request_parameters(
        self, params: Mapping[str, object], client: Mapping[str, object]
    ) -> tuple[Mapping[str, object], ...]:
        """Return the request's format and options, merged as ``_OllamaCommon._create_stream`` merges them.

        A call's ``options`` replace all others. Without them, each keyword argument of the call that is not a field of
        the request becomes an option.
        """
        options = mapping(params.get("options"))
        if options.keys() >= _OWN_OPTIONS:
            stop = options.get("stop") if params.get("stop") is None else params["stop"]
            options = {**options, **params, "stop": stop}
        return ({"format": params.get("format"), **{name: options.get(name) for name in _OPTIONS}},)

    def answer(self, client: Mapping[str, object] = NOTHING) -> Answer:
        """Return the reader of one call's answer."""
        return _Answer()


class _Answer(Answer):
    """Ollama's lines. The last one contains the counts, or an error in their place."""

    __slots__ = ("_error", "_last")

    def __init__(self) -> None:
        self._last: str | None = None
        self._error: str | None = None

    def add(self, raw: object, source: object = None) -> None:
        if isinstance(raw, str):
            self._last = raw
            # Inside a JSON string, its quotation marks would be escaped.
            if '"error"' in raw:
                self._error = raw

    def response(self, generations: Sequence[object], llm_output: object) -> Response:
        if self._last is None:
            return read_result(generations, llm_output)
        line = _parsed(self._last)
        done = line.get("done") is True
        reason = short_text(line.get("done_reason"))
        failed = bool(_parsed(self._error).get("error"))
        return Response(
            model=model_name(line.get("model")),
            finish_reasons=(reason,) if reason else (),
            usage=_usage(line) if done else None,
            error=ERROR if failed else None if done else INCOMPLETE,
        )


def _parsed(line: str | None) -> Mapping[str, object]:
    try:
        return mapping(json.loads(line)) if line else NOTHING
    except (ValueError, RecursionError):
        return NOTHING


def _usage(line: Mapping[str, object]) -> Usage | None:
    # The prompt's count includes the cached tokens. Older releases leave it out if the prompt was cached
    # (ollama/ollama#2068), and servers that imitate Ollama then write 0. A prompt is never empty.
    prompt = _count(line.get("prompt_eval_count")) or None
    cached = _count(line.get("prompt_eval_cached_count"))
    usage = Usage(
        prompt, _count(line.get("eval_count")), cached if cached is not None and cached <= (prompt or 0) else None
    )
    return usage if usage != Usage() else None


def _count(value: object) -> int | None:
    # Servers that imitate Ollama may write another type of number.
    return count(value if type(value) is int else whole(value))
