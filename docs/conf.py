# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx: pages in Markdown, the API from docstrings. Built by ``tox run -e docs``, where a warning is an error."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from importlib.metadata import metadata
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from opentelemetry_instrumentation_modelforge import Configuration, ModelForgeInstrumentor

project = "opentelemetry-instrumentation-modelforge"
package = metadata(project)
author = package["Author"]
copyright = author
release = version = package["Version"]
urls = dict(url.split(", ") for url in package.get_all("Project-URL", []))

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
# No intersphinx: the build needs no network.

# Headings can be linked to as on the code host, `configuration.md#sampling`.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# A longer signature has a line for each parameter.
maximum_signature_line_length = 100

# A button copies the commands of a console block without prompt and output. Printed traces have none.
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"

html_theme = "furo"
html_title = f"OpenTelemetry for ModelForge {release}"
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
# The buttons that show and edit a page's source.
html_theme_options = {
    "source_view_link": f"{urls['Repository']}/blob/main/docs/{{filename}}",
    "source_edit_link": f"{urls['Repository']}/edit/main/docs/{{filename}}",
    "footer_icons": [{"name": "Repository", "url": urls["Repository"], "html": "Repository", "class": ""}],
}


def setup(app: Sphinx) -> None:
    """Fill in the reference, and prepare tables for narrow screens."""
    app.connect("autodoc-process-docstring", add_options)
    app.connect("autodoc-process-signature", add_keywords)
    app.connect("doctree-read", label_cells)


# --- Tables ---


def label_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Repeat the heading of its column in each cell.

    The stylesheet shows these labels on narrow screens only, where it stacks the cells of a row. A table of two columns
    is understood without them.
    """
    for group in doctree.findall(nodes.tgroup):
        head, body = group.next_node(nodes.thead), group.next_node(nodes.tbody)
        if head is None or body is None or group["cols"] < 3:
            continue
        headings = [entry.astext() for entry in head.findall(nodes.entry)]
        for row in body.findall(nodes.row):
            for heading, cell in list(zip(headings, row.findall(nodes.entry), strict=True))[1:]:
                if heading and cell.astext():
                    label = nodes.inline("", f"{heading}: ", classes=["column-heading"])
                    cell.next_node(nodes.paragraph).insert(0, label)


# --- The options, from the one list of them ---


def add_options(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Document each option as an attribute of ``Configuration`` and as a parameter of ``instrument()``."""
    if obj is Configuration:
        lines += _attributes()
    elif obj == ModelForgeInstrumentor.instrument:
        lines[:] = [*INSTRUMENT, *_parameters(), *RAISES]


def add_keywords(
    app: Sphinx, what: str, name: str, obj: object, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Show the keywords of ``instrument()`` in place of ``**kwargs``, and no parameters of two classes."""
    if obj in (Configuration, ModelForgeInstrumentor):
        return "", None
    if obj == ModelForgeInstrumentor.instrument:
        providers = [f"{provider}=None" for provider in re.findall(r":param (\w+):", "\n".join(INSTRUMENT))]
        keywords = [f"{option.name}={_default(option)!r}" for option in fields(Configuration)]
        return f"(*, {', '.join([*providers, *keywords])})", None
    return None


def _attributes() -> Iterator[str]:
    for option in fields(Configuration):
        yield from ("", f".. attribute:: {option.name}", f"   :value: {_default(option)!r}", "")
        yield f"   {_restructured(option.metadata['doc'])} Accepts: {_restructured(option.metadata['type'].accepts)}."


def _parameters() -> Iterator[str]:
    for option in fields(Configuration):
        yield f":param {option.name}: {_restructured(option.metadata['doc'])}"
        yield f":type {option.name}: {_restructured(option.metadata['type'].accepts)}"


def _default(option: Field[Any]) -> object:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _restructured(markdown: str) -> str:
    return re.sub(r"`([^`]+)`", r"``\1``", markdown)


INSTRUMENT = inspect.cleandoc(
    """
    Instrument ModelForge, now or as soon as the application imports it.

    Every keyword is optional. A keyword that is not given comes from the environment, from ModelForge's settings, or is
    the default shown above: see :doc:`configuration`. A second call does nothing until ``uninstrument()``.

    :param tracer_provider: OpenTelemetry's ``TracerProvider`` for the spans. The default is the global one.
    :param meter_provider: OpenTelemetry's ``MeterProvider`` for the metrics. The default is the global one.
    :param logger_provider: OpenTelemetry's ``LoggerProvider`` for the events. The default is the global one.
    :param completion_hook: a ``CompletionHook`` of opentelemetry-util-genai, which gets the captured content. The
        default is the hook that ``OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK`` names.
    """
).splitlines()
RAISES = inspect.cleandoc(
    """
    :raises TypeError: for an option that does not exist, or a value of the wrong type.
    :raises ValueError: for a bad value of the right type.
    """
).splitlines()
