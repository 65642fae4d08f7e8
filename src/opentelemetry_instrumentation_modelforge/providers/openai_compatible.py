# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``openai_compatible``: ``ChatOpenAI``, for OpenAI and compatible servers."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, cast

from ..values import NOTHING, mapping, text
from .openai_api import OpenAIAnswer
from .provider import Answer, Provider, Tap


class OpenAICompatible(Provider):
    """Clients of OpenAI's chat completions and responses."""

    default_server: ClassVar[tuple[str, int] | None] = ("api.openai.com", 443)
    taps: ClassVar[tuple[Tap, ...]] = (
        # Every decoded body and every event of a stream passes through this function before it is parsed. LangChain
        # never receives a structured answer that violates its schema or is cut short. The argument is keyword-only.
        Tap("openai._base_client", "BaseClient", "_process_response_data", position=1, keyword="data"),
    )

    def client_url(self, client: Mapping[str, object]) -> str | None:
        """Return the URL of the ``openai`` client, which also reads ``OPENAI_BASE_URL``."""
        url = getattr(client.get("root_client"), "base_url", None)
        # A mock has every attribute, but none of them is text.
        return str(url) if text(getattr(url, "host", None)) else text(client.get("openai_api_base"))

    def client_credentials(self, client: Mapping[str, object]) -> Iterable[object]:
        """Return the key, the default headers and query, and the proxy's URL, which may contain a password."""
        return tuple(
            client.get(name) for name in ("openai_api_key", "default_headers", "default_query", "openai_proxy")
        )

    def request_stream_usage(self, client: object) -> None:
        """Set ``stream_usage`` unless the application set it or ``model_kwargs["stream_options"]["include_usage"]``."""
        model = cast("Any", client)
        if "stream_usage" not in getattr(type(client), "model_fields", ()) or "stream_usage" in model.model_fields_set:
            return
        if "include_usage" not in mapping(mapping(getattr(client, "model_kwargs", None)).get("stream_options")):
            model.stream_usage = True

    def requested_model(self, params: Mapping[str, object], client: Mapping[str, object]) -> str | None:
        """Return the model name that one call sends: ``extra_body`` is merged over all other parameters."""
        return text(mapping(params.get("extra_body")).get("model")) or super().requested_model(params, client)

    def request_parameters(
        self, params: Mapping[str, object], client: Mapping[str, object]
    ) -> Iterable[Mapping[str, object]]:
        """Return the request's parameters; later mappings override earlier ones.

        ``invocation_params`` already merges the model's fields, its ``model_kwargs`` and the call's own arguments. The
        ``openai`` client merges ``extra_body`` over all of them.
        """
        if params.get("max_tokens", 0) is None:
            # The call removes the model's own limit.
            params = {**params, "max_completion_tokens": None}
        body = mapping(params.get("extra_body"))
        return (params, _flat(params), body, _flat(body)) if body else (params, _flat(params))

    def answer(self, client: Mapping[str, object] = NOTHING) -> Answer:
        """Return the reader of one answer, which accepts the answers to the model's own ``openai`` clients."""
        return OpenAIAnswer(client)


_NOT_FLAT: Final = frozenset({"max_tokens", "reasoning", "text"})


def _flat(params: Mapping[str, object]) -> Mapping[str, object]:
    """Return nested and renamed parameters under their usual top-level names."""
    if _NOT_FLAT.isdisjoint(params):
        return NOTHING
    flat: dict[str, object] = {}
    # ChatOpenAI sends a call's max_tokens as max_completion_tokens.
    if (max_tokens := params.get("max_tokens")) is not None:
        flat["max_completion_tokens"] = max_tokens
    if effort := mapping(params.get("reasoning")).get("effort"):
        flat["reasoning_effort"] = effort
    if output := mapping(params.get("text")).get("format"):
        flat["response_format"] = output
    return flat
