# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx: pages in Markdown, the API from docstrings. Built by ``tox run -e docs``, where a warning is an error."""

from importlib.metadata import metadata

project = "opentelemetry-instrumentation-modelforge"
package = metadata(project)
author = package["Author"]
copyright = author
release = version = package["Version"]
urls = dict(url.split(", ") for url in package.get_all("Project-URL", []))

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# No intersphinx: the build needs no network.

# Headings can be linked to as on the code host, `configuration.md#sampling`.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
# The buttons that show and edit a page's source.
html_theme_options = {
    "source_view_link": f"{urls['Repository']}/blob/main/docs/{{filename}}",
    "source_edit_link": f"{urls['Repository']}/edit/main/docs/{{filename}}",
}
