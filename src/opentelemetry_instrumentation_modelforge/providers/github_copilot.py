# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``github_copilot``: ``ChatGitHubCopilot`` of langchain-github-copilot, whose API answers like OpenAI's."""

from collections.abc import Iterator, Mapping

from ..values import NOTHING, mapping, text
from .openai_api import OpenAIAnswer
from .provider import Answer, Provider, Tap


class GitHubCopilot(Provider):
    """GitHub Copilot, which is paid by subscription."""

    default_server = ("api.githubcopilot.com", 443)
    paid_by_token = False
    has_reference_cost = True
    # The integration does not stream: LangChain makes its streams from one answer.
    taps = (Tap("langchain_github_copilot.base", "BaseChatOpenAI", "_create_chat_result", 1, "response"),)

    def client_url(self, client: Mapping[str, object]) -> str | None:
        """Return the URL of the chat endpoint, which this integration keeps in the field ``client``."""
        return text(client.get("client"))

    def client_credentials(self, client: Mapping[str, object]) -> Iterator[object]:
        """Yield the fields of the model, and of its headers only those that identify the caller."""
        for name, value in client.items():
            if name != "header":
                yield value
        yield {name: value for name, value in mapping(client.get("header")).items() if name.lower() == "authorization"}

    def answer(self, client: Mapping[str, object] = NOTHING) -> Answer:
        """Return the reader of one answer. One without choices, which Copilot sends with HTTP 200, is an error."""
        return OpenAIAnswer()
