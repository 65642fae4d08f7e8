"""``google_genai``."""

from .provider import Provider


class GoogleGenAI(Provider):
    """A stand-in."""
