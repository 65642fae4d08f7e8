"""``ollama``."""

from .provider import Provider


class Ollama(Provider):
    """A stand-in."""
