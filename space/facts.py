"""What a model's own files say about it: its metrics with intervals, the data it learned from and whom to cite."""

import html
import json
from pathlib import Path
from typing import Any

from config import ModelSource
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

SHOWN = {
    "auroc": "AUROC",
    "macro_auroc": "AUROC (mean)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy (argmax)",
}
SPLITS = ("test", "external")


def read_facts(source: ModelSource) -> dict[str, Any]:
    """metrics.json, environment.json and recipe.json of a model, by their stem; what it does not carry is absent."""
    found = {}
    for name in ("metrics", "environment", "recipe"):
        if file := _file(source, f"{name}.json"):
            found[name] = json.loads(file.read_text(encoding="utf-8"))
    return found


def read_figure(source: ModelSource, name: str) -> bytes | None:
    """An image of the model's figures folder, PNG; None where it has none of that name."""
    file = _file(source, f"figures/{name}")
    return file.read_bytes() if file else None


def sensitivity_text(facts: dict[str, Any], decision: dict[str, Any]) -> str:
    """What a decision's threshold did on validation, in words: empty where the model's figures do not say."""
    for point in facts.get("metrics", {}).get("operating_points", []):
        if (point["name"], point["label"]) == (decision["name"], decision["label"]) and "validation" in point["on"]:
            share = point["on"]["validation"]["sensitivity"]["value"]
            return "" if share is None else f"which caught {number_text(share)} of {decision['label']} in validation"
    return ""


def facts_html(facts: dict[str, Any], source: ModelSource) -> str:
    """How well it did on whom, and its data with licence and citation."""
    splits = facts.get("metrics", {}).get("splits", {})
    parts = [_table({name: splits[name] for name in SPLITS if name in splits})] if splits else []
    sets = facts.get("environment", {}).get("data_sources", [])
    if sets:
        parts.append(f"<p>Learned from:</p><ul>{''.join(_citation(found) for found in sets)}</ul>")
    if source.revision:
        address = html.escape(f"https://huggingface.co/{source.model}/tree/{source.revision}")
        parts.append(
            f'<p><a href="{address}" target="_blank" rel="noopener">{html.escape(source.model)}: the model card</a></p>'
        )
    return "".join(parts) or "<p>This model carries no figures.</p>"


def figure_text(figure: dict[str, Any] | None) -> str:
    """A figure with its interval."""
    if figure is None or figure["value"] is None:
        return "–"
    value, *interval = (number_text(figure[key]) for key in ("value", "low", "high") if figure[key] is not None)
    return f"{value} ({'–'.join(interval)})" if interval else value


def number_text(value: float) -> str:
    """Three places, or as many as it takes not to say 0 or 1 of what is neither; below a millionth an exponent."""
    if 0 < value < 1e-6:
        return f"{value:.0e}"
    places = 3
    while 0 < value < 1 and float(f"{value:.{places}f}") in (0, 1):
        places += 1
    return f"{value:.{places}f}".removeprefix("0")


def _file(source: ModelSource, name: str) -> Path | None:
    if not source.revision:
        return file if (file := Path(source.model, name)).is_file() else None
    try:
        return Path(hf_hub_download(source.model, name, revision=source.revision))
    except EntryNotFoundError:
        return None


def _table(splits: dict[str, Any]) -> str:
    measured = next(iter(splits.values()))["metrics"]
    names = [name for name in SHOWN if name in measured]
    head = "".join(f'<th scope="col">{SHOWN[name]}</th>' for name in names)
    rows = "".join(
        _row(f"{title}, n = {part['n']}", [figure_text(part["metrics"].get(name)) for name in names])
        for title, part in splits.items()
    )
    caption = "<caption>Metrics with 95 % intervals</caption>"
    return f"<table>{caption}<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(title: str, cells: list[str]) -> str:
    return f'<tr><th scope="row">{title}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _citation(found: dict[str, Any]) -> str:
    title, page, licence, citation = (html.escape(found[key]) for key in ("title", "page", "licence", "citation"))
    linked = f'<a href="{page}" target="_blank" rel="noopener">{title}</a>' if page.startswith("https://") else title
    return f"<li>{linked}. Licence: {licence}. {citation}</li>"
