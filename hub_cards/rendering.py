"""The templates of the cards."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hub_cards import formatting

FILTERS = {
    "figure": formatting.format_metric,
    "number": formatting.format_number,
    "name": formatting.figure_name,
    "headline": formatting.headline,
    "table": formatting.format_table,
}


def render(template: str, **values: Any) -> str:
    """A template of templates/ with these values; one that is missing is an error."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    return environment.get_template(template).render(**values)
