# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Check the built documentation: the reference has every public name and every option, and each link has a target.

Run by ``tox run -e docs`` as ``python tests/support/check_site.py FOLDER``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import opentelemetry_instrumentation_modelforge as package

PACKAGE = package.__name__


def main(folder: str) -> int:
    """Print each problem, and return their number."""
    pages = {path.resolve(): Page(path) for path in Path(folder).glob("*.html")}
    problems = [*missing_names(pages[Path(folder, "api.html").resolve()]), *broken_links(pages)]
    print(
        *problems or [f"{len(pages)} pages: every name is in the reference, and every link leads somewhere"], sep="\n"
    )
    return len(problems)


class Page(HTMLParser):
    """The links of a page, and the ids that links can target."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def missing_names(reference: Page) -> Iterator[str]:
    """Yield the public names and the options that the reference lacks."""
    names = [*package.__all__, *(f"Configuration.{option.name}" for option in fields(package.Configuration))]
    names.append("ModelForgeInstrumentor.instrument")
    for name in names:
        if f"{PACKAGE}.{name}" not in reference.ids:
            yield f"api.html has no {name}"


def broken_links(pages: dict[Path, Page]) -> Iterator[str]:
    """Yield the links between pages that have no target."""
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                yield f"{path.name}: there is no {link}"
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                yield f"{path.name}: {target.name} has no #{url.fragment}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
