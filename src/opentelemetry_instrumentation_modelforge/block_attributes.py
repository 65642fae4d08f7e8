# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``telemetry_attributes``: attributes for one block of code, and for the registries and models created in it."""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple, cast

from opentelemetry.context import Context, attach, create_key, get_current, set_value
from opentelemetry.util.types import AttributeValue

from .option_types import check_attributes, shown
from .scope import restore

_KEY: Final = create_key("opentelemetry_instrumentation_modelforge.block_attributes")


class BlockAttributes(NamedTuple):
    """The attributes of the blocks that enclose a place in the code."""

    spans: Mapping[str, AttributeValue] = {}
    metrics: Mapping[str, AttributeValue] = {}

    def updated_by(self, inner: "BlockAttributes") -> "BlockAttributes":
        """Return these attributes merged with those of an inner block, which take precedence."""
        return BlockAttributes({**self.spans, **inner.spans}, {**self.metrics, **inner.metrics})


NO_BLOCK: Final = BlockAttributes()


def telemetry_attributes(
    attributes: Mapping[str, AttributeValue] | None = None, /, *, metrics: bool = False, **more: AttributeValue
) -> AbstractContextManager[None]:
    """Add attributes to the spans of the ``get_llm`` and of the model calls in a ``with`` block.

    The models that ``get_llm`` returns in the block keep the attributes for all of their calls, and the registries
    created in it keep them for all of their models. Blocks can be nested; the inner block takes precedence, and a block
    around a call takes precedence over the block in which its model was created. A block's attributes override the
    option ``attributes``. The block is part of OpenTelemetry's context, so it reaches tasks and LangChain's threads::

        with telemetry_attributes(team="search"):
            llm = registry.get_llm("openai", "gpt-4o-mini")

    :param attributes: attributes whose names are not Python identifiers, such as ``{"app.team": "search"}``.
    :param metrics: whether the attributes are added to metrics, too. Each new value is a new time series.
    :param more: further attributes.
    :raises TypeError: for a value that no attribute can have, or a list of mixed types.
    :raises ValueError: for a name or a value that cannot be exported.
    """
    if not isinstance(metrics, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"telemetry_attributes(metrics={shown(metrics)}): expected True or False")
    checked = check_attributes({**(attributes or {}), **more})
    return _attached(BlockAttributes(checked, checked if metrics else {}))


@contextmanager
def _attached(block: BlockAttributes) -> Generator[None]:
    token = attach(set_value(_KEY, current_block().updated_by(block)))
    try:
        yield
    finally:
        restore(token)


def current_block(context: Context | None = None) -> BlockAttributes:
    """Return the attributes of the blocks around ``context``, or around the current one."""
    return cast("BlockAttributes", (get_current() if context is None else context).get(_KEY, NO_BLOCK))
