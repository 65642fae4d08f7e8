"""``openai_compatible``."""

from .provider import Provider


class OpenAICompatible(Provider):
    """A stand-in."""
