"""The templates of the cards."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hub_cards.formatting import figure_name, format_metric, format_number, headline


def render(template: str, **values: Any) -> str:
    """A template of templates/ with these values; one that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"figure": format_metric, "number": format_number, "name": figure_name, "headline": headline}
    return environment.get_template(template).render(**values)
