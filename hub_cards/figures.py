"""How a figure of metrics.json is written for people: always with its interval."""

from typing import Any


def show_figure(figure: dict[str, Any] | None) -> str:
    """`.952 (.930–.968)`, or a dash where it is undefined."""
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return show_number(figure["value"])
    return f"{show_number(figure['value'])} ({show_number(figure['low'])}–{show_number(figure['high'])})"


def show_number(value: float) -> str:
    """A share in 0..1 with three places and no leading zero."""
    return f"{value:.3f}".removeprefix("0")
