"""A pytest plugin for the notebooks: a busy machine may be slower than nbval's five seconds to hand over an output."""

from typing import Any


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Wait up to a minute for the outputs that follow a cell's reply."""
    for item in items:
        item.output_timeout = 60
