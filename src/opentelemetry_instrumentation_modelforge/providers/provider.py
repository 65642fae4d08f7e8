# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The interface of every kind of client. One other file here implements it for each of ModelForge's types."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from ..response import Response
from ..values import NOTHING, mapping, text
from .langchain import read_result


class Tap(NamedTuple):
    """A function of LangChain's integration that receives the provider's raw answer.

    It runs while the context of the call is current, so its argument belongs to that call.
    """

    module: str
    owner: str | None
    """The class that has the function, or None for a function of the module."""
    name: str
    position: int
    """The raw answer's position among the positional arguments, ``self`` included."""
    keyword: str
    """The raw answer's parameter name."""


class Answer:
    """The provider's answer to one call, as far as it has arrived.

    This class reads only LangChain's finished result. A subclass reads the raw answers too.
    """

    __slots__ = ()

    def add(self, raw: object, source: object = None) -> None:
        """Take an answer, or one chunk of a stream, as the provider sent it. Runs for each chunk.

        :param source: the object whose method the tap wraps; None if it wraps a function.
        """

    def add_chunk(self, chunk: object) -> None:
        """Take LangChain's ``ChatGenerationChunk``. It counts only if no raw answer has been seen."""

    def response(self, generations: Sequence[object], llm_output: object) -> Response:
        """Return the response as far as it is known.

        :param generations: LangChain's generations for one prompt; empty if it has created none.
        :param llm_output: the ``llm_output`` of LangChain's result.
        """
        return read_result(generations, llm_output)


class Provider:
    """One kind of client, by ModelForge's ``llm_type``. This class itself covers unknown kinds."""

    default_server: ClassVar[tuple[str, int] | None] = None
    """The host and port that the client calls if no other is configured."""
    paid_by_token: ClassVar[bool] = True
    """False for local models and subscriptions, whose calls have no price."""
    has_reference_cost: ClassVar[bool] = False
    """Whether ModelForge prints a notional price (``modelforge.usage.reference_cost``)."""
    separate_system_instructions: ClassVar[bool] = False
    """Whether the API takes system instructions separately from the history."""
    taps: ClassVar[tuple[Tap, ...]] = ()
    """The functions that receive the raw answers."""

    def api_model(self, alias: str, model_data: Mapping[str, object]) -> str:
        """Return the model name that ModelForge sends to the API.

        :param model_data: the model's entry in ModelForge's configuration.
        """
        return text(model_data.get("api_model_name")) or alias

    def client_url(self, client: Mapping[str, object]) -> str | None:
        """Return the URL or host that a built client calls.

        :param client: the fields of the LangChain model (``vars(model)``).
        """
        return text(client.get("base_url"))

    def client_credentials(self, client: Mapping[str, object]) -> Iterable[object]:
        """Return the values of a built client that may hold credentials: pydantic secrets and mappings of headers."""
        return client.values()

    def requested_model(self, params: Mapping[str, object], client: Mapping[str, object]) -> str | None:
        """Return the model name that one call sends, or None if the parameters do not contain it."""
        return text(params.get("model")) or text(params.get("model_name"))

    def request_parameters(
        self, params: Mapping[str, object], client: Mapping[str, object]
    ) -> Iterable[Mapping[str, object]]:
        """Return the parameters that the client actually sends; later mappings override earlier ones.

        :param params: LangChain's ``invocation_params``.
        :param client: the fields of the LangChain model that runs the call; empty if it is not known.
        """
        return (mapping(params.get("model_kwargs")), params)

    def request_stream_usage(self, client: object) -> None:
        """Make a built client request the usage of its streams, unless the application has configured that itself."""

    def answer(self, client: Mapping[str, object] = NOTHING) -> Answer:
        """Return the reader of one call's answer.

        :param client: the fields of the LangChain model that runs the call; empty if it is not known.
        """
        return Answer()
