# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""`docs/configuration.md` has every option in the list of options in `config.py`."""

from __future__ import annotations

import re
from dataclasses import Field, fields
from typing import Any

import pytest

from opentelemetry_instrumentation_modelforge import Configuration
from support import DOCS

PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
OPTIONS = {option.name: option for option in fields(Configuration)}


def section_start(option: Field[Any]) -> str:
    """Return the beginning of an option's section, which more text may follow."""
    option_type = option.metadata["type"]
    lines = [f"### `{option.name}`", "", option.metadata["doc"], "", f"- Values: {option_type.accepts}"]
    if default := default_of(option):
        lines.append(f"- Default: {default}")
    variable = f"OTEL_PYTHON_MODELFORGE_{option.name.upper()}"
    lines.append("- Keyword only" if option_type.keyword_only else f"- Environment variable: `{variable}`")
    return "\n".join([*lines, ""])


def default_of(option: Field[Any]) -> str | None:
    value = getattr(Configuration(), option.name)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value else value if value is None else "none"


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_has_a_section_with_its_meaning(name: str) -> None:
    start = section_start(OPTIONS[name])
    assert start in PAGE, f"docs/configuration.md has to have:\n\n{start}"


def test_every_section_is_of_an_option() -> None:
    assert sorted(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE)) == sorted(OPTIONS)


def test_the_summary_links_to_every_option() -> None:
    assert sorted(re.findall(r"^\| .* \| \[`(\w+)`\]\(#\1\) \|$", PAGE, re.MULTILINE)) == sorted(OPTIONS)
