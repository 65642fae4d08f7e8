# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata that depends on the repository's address, which ``pyproject.toml`` names once.

Hatchling runs this hook at each build: ``[project.urls]``, and the README with absolute links for the package index.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"""(?P<start>\]\(|\b(?:src|srcset|href)=")(?P<path>[^)"\s#:]+)(?=[)"\s#])""")
"""The start of a relative link in Markdown or HTML."""
PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")


class RepositoryMetadataHook(MetadataHookInterface):
    """Set ``urls`` and ``readme`` from ``[tool.hatch.metadata.hooks.custom] repository``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the metadata; ``version`` is already in it."""
        repository = self.config["repository"].rstrip("/")
        tag = f"v{metadata['version']}"
        metadata["urls"] = {
            "Homepage": repository,
            "Documentation": f"{repository}/blob/{tag}/docs/index.md",
            "Repository": repository,
            "Issues": f"{repository}/issues",
            "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        }
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_absolute_links(readme, Path(self.root), repository, tag),
        }


def with_absolute_links(text: str, root: Path, repository: str, tag: str) -> str:
    """Return a text whose links to files of ``root`` lead to the files of ``tag`` in the repository."""

    def absolute(link: re.Match[str]) -> str:
        path = link["path"]
        if not (root / path).exists():
            return link[0]
        view = "tree" if (root / path).is_dir() else "raw" if path.endswith(PICTURES) else "blob"
        return f"{link['start']}{repository}/{view}/{tag}/{path}"

    return LINK.sub(absolute, text)
