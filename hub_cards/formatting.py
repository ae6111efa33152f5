"""How a figure of metrics.json is written for people: always with its interval."""

from collections.abc import Iterable
from typing import Any

HEADLINE = (("auroc", "sensitivity", "specificity", "accuracy"), ("macro_auroc", "balanced_accuracy", "accuracy"))


def headline(metrics: Iterable[str]) -> tuple[str, ...]:
    """The figures that speak for a model: its AUROC, what it does at the threshold that ships, and its accuracy."""
    return HEADLINE["auroc" not in metrics]


def figure_name(key: str) -> str:
    """What a figure is called: `accuracy` is of the highest score, all else of the decision."""
    named = {
        "accuracy": "accuracy (argmax)",
        "macro_auroc": "mean AUROC",
        "auroc": "AUROC",
        "f1": "F1",
        "macro_f1": "mean F1",
    }
    return named.get(key, key.replace("_", " "))


def format_metric(figure: dict[str, Any] | None) -> str:
    """`.952 (.930–.968)`, or a dash where it is undefined."""
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return format_number(figure["value"])
    return f"{format_number(figure['value'])} ({format_number(figure['low'])}–{format_number(figure['high'])})"


def format_number(value: float) -> str:
    """A share in 0..1 with three places and no leading zero.

    What is neither 0 nor 1 is not written so: it gets more places, `.9999` and `.00004`, and below a millionth an
    exponent.
    """
    if 0 < value < 1e-6:
        return f"{value:.0e}"
    places = 3
    while 0 < value < 1 and float(f"{value:.{places}f}") in (0, 1):
        places += 1
    return f"{value:.{places}f}".removeprefix("0")
