"""``openai_compatible``: ``ChatOpenAI``, for OpenAI itself and for every server that speaks its APIs."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from ..values import mapping, text
from .openai_api import OpenAIAnswer
from .provider import Answer, Provider, Tap


class OpenAICompatible(Provider):
    """Clients of OpenAI's chat completions and responses."""

    default_server: ClassVar[tuple[str, int] | None] = ("api.openai.com", 443)
    taps: ClassVar[tuple[Tap, ...]] = (
        # Every decoded body passes here, whole or one event of a stream, before anything parses it: a structured answer
        # that does not fit its schema, or that is cut short, is seen although LangChain never gets it.
        Tap("openai._base_client", "BaseClient", "_process_response_data", position=1, keyword="data"),
    )

    def client_url(self, client: Mapping[str, object]) -> str | None:
        """Return the URL of the ``openai`` client, which also knows ``OPENAI_BASE_URL``."""
        url = getattr(client.get("root_client"), "base_url", None)
        # A test's mock of a client has every attribute, and none of them is text.
        return str(url) if text(getattr(url, "host", None)) else text(client.get("openai_api_base"))

    def client_credentials(self, client: Mapping[str, object]) -> Iterable[object]:
        """Return the key, the headers and queries of every request, and the proxy, whose URL may hold a password."""
        return tuple(
            client.get(name) for name in ("openai_api_key", "default_headers", "default_query", "openai_proxy")
        )

    def request_stream_usage(self, client: object) -> None:
        """Set ``stream_usage``, as the application could have done."""
        model = cast("Any", client)
        if "stream_usage" not in getattr(type(client), "model_fields", ()) or "stream_usage" in model.model_fields_set:
            return
        if "include_usage" not in mapping(mapping(getattr(client, "model_kwargs", None)).get("stream_options")):
            model.stream_usage = True

    def request_parameters(
        self, params: Mapping[str, object], client: Mapping[str, object]
    ) -> Iterable[Mapping[str, object]]:
        """Return the parameters of the request, whose ``extra_body`` the ``openai`` client puts over all others.

        ``invocation_params`` has the model's own, ``model_kwargs`` and those of the call merged already.
        """
        body = mapping(params.get("extra_body"))
        return (params, _flat(params), body, _flat(body))

    def answer(self) -> Answer:
        """Return the reader of one answer."""
        return OpenAIAnswer()


def _flat(params: Mapping[str, object]) -> Mapping[str, object]:
    """Return the parameters that stand deeper than others, by the names of those that do not."""
    flat: dict[str, object] = {}
    # ChatOpenAI sends a call's max_tokens as max_completion_tokens.
    if (max_tokens := params.get("max_tokens")) is not None:
        flat["max_completion_tokens"] = max_tokens
    if effort := mapping(params.get("reasoning")).get("effort"):
        flat["reasoning_effort"] = effort
    if output := mapping(params.get("text")).get("format"):
        flat["response_format"] = output
    return flat
