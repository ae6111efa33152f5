"""How cards are written: their templates, and a metric of metrics.json, always with its interval.

Whatever a template puts in is text: markup in a label, a licence or a title is shown, not followed.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TWO_LABELS = ("auroc", "sensitivity", "specificity", "accuracy")
MORE_LABELS = ("macro_auroc", "balanced_accuracy", "accuracy")
NAMES = {
    "accuracy": "accuracy (argmax)",
    "macro_auroc": "mean AUROC",
    "auroc": "AUROC",
    "f1": "F1",
    "macro_f1": "mean F1",
    "hits": "highest point in the finding",
    "inside": "proportion of the map in it",
}
# What a terminal obeys and nobody sees: control characters, marks that turn the direction, halves of characters.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MARKUP = re.compile(r"[\\`*\[\]|~&$]|(?<!\w)_|_(?!\w)")


class Markdown(str):
    """Text that is Markdown already, for a template to put in as it is."""


def headline(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics that speak for a model: its AUROC, what it does at the threshold that ships, and its accuracy."""
    return TWO_LABELS if "auroc" in metrics else MORE_LABELS


def figure_name(key: str) -> str:
    """What a metric is called: `accuracy` is of the highest score, all else of the decision."""
    return NAMES.get(key, key.replace("_", " "))


def format_metric(metric: dict[str, Any] | None) -> str:
    """`.952 (.930–.968)`, or a dash where it is undefined."""
    if metric is None or metric["value"] is None:
        return "–"
    if metric["low"] is None:
        return format_number(metric["value"])
    return f"{format_number(metric['value'])} ({format_number(metric['low'])}–{format_number(metric['high'])})"


def format_number(value: float) -> str:
    """A proportion in 0..1 with three digits and no leading zero.

    What is neither 0 nor 1 is not written so: it gets more digits, `.9999` and `.00004`, and below a millionth an
    exponent.
    """
    if 0 < value < 1e-6:
        return f"{value:.0e}"
    digits = 3
    while 0 < value < 1 and float(f"{value:.{digits}f}") in (0, 1):
        digits += 1
    return f"{value:.{digits}f}".removeprefix("0")


def format_table(rows: dict[str, dict[str, Any]], title: str, keys: Sequence[str]) -> str:
    """A Markdown table with a row for each name: its n and these metrics, or those in its `metrics`."""
    lines = [[title, *map(figure_name, keys)], ["---"] * (len(keys) + 1)]
    for name, row in rows.items():
        cells = {**row, **row.get("metrics", {})}
        values = (str(cells[key]) if key == "n" else format_metric(cells[key]) for key in keys)
        lines.append([escape_markdown(name), *values])
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def printable(text: str) -> str:
    """Text with what a terminal would obey as escape sequences; lines stay lines."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def escape_markdown(value: Any) -> Any:
    """A string as Markdown that shows it, on one line; what is Markdown already, or no string, as it is."""
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    line = " ".join(value.split()) if "\n" in value else value
    return Markdown(MARKUP.sub(r"\\\g<0>", printable(line)).replace("<", "&lt;"))


def format_code(text: str) -> Markdown:
    """Text between backticks, on one line."""
    return Markdown("`" + printable(" ".join(text.split())).replace("`", "'").replace("|", "\\|") + "`")


def format_source(source: dict[str, Any]) -> Markdown:
    """Title with a link to its page, licence and citation of a set of images."""
    title, page = escape_markdown(source["title"]), str(source["page"])
    link = f"[{title}]({page})" if re.fullmatch(r"https?://[^\s()<>\\]+", page) else title
    return Markdown(f"{link}, licence: {escape_markdown(source['licence'])}. {escape_markdown(source['citation'])}")


def render(template: str, **values: Any) -> str:
    """A template of templates/ with these values; one that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, finalize=escape_markdown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": format_metric, "number": format_number, "name": figure_name}
    environment.filters |= {"headline": headline, "table": format_table, "source": format_source}
    environment.filters |= {"markdown": Markdown, "code": format_code}
    return environment.get_template(template).render(**values)
