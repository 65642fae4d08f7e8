"""Sphinx: pages in Markdown, the API from docstrings. Built by ``tox run -e docs``, where a warning is an error."""

from importlib.metadata import version as version_of

project = "opentelemetry-instrumentation-modelforge"
author = "The opentelemetry-instrumentation-modelforge authors"
copyright = author
release = version = version_of(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# No intersphinx: the build needs no network.

# Headings can be linked to as on the code host, `configuration.md#sampling`.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
