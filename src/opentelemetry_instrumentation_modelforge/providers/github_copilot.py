"""``github_copilot``."""

from .provider import Provider


class GitHubCopilot(Provider):
    """A stand-in."""
