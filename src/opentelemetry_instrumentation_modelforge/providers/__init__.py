# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The kinds of clients that ModelForge hands out, one file each."""

from typing import Final

from .github_copilot import GitHubCopilot
from .google_genai import GoogleGenAI
from .ollama import Ollama
from .openai_compatible import OpenAICompatible
from .provider import Answer, Provider, Tap

__all__ = ["PROVIDERS", "Answer", "Provider", "Tap", "provider_of"]

PROVIDERS: Final[dict[str, Provider]] = {
    "openai_compatible": OpenAICompatible(),
    "ollama": Ollama(),
    "google_genai": GoogleGenAI(),
    "github_copilot": GitHubCopilot(),
}

_UNKNOWN: Final = Provider()


def provider_of(llm_type: str | None) -> Provider:
    """Return the kind of client that ModelForge's ``llm_type`` names."""
    return PROVIDERS.get(llm_type or "", _UNKNOWN)
