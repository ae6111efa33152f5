"""The served models' metrics with intervals, training data, citations and figures, as HTML."""

import html
from typing import Any

from facts import metric_text, read_figure
from view import data_address
from worker import Served

METRICS = {
    "auroc": "AUROC",
    "macro_auroc": "AUROC (mean)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy (argmax)",
}
FIGURES = {
    "confusion-test": "Who was called what, on test",
    "confusion-external": "Who was called what, on external radiographs",
    "thresholds-test": "ROC and precision-recall, on test",
    "reliability-test": "Are its scores probabilities? On test",
    "audit": "What remains when the lungs are hidden",
    "curves": "Training",
}


def facts_html(model: Served) -> str:
    """How well a model did on whom, and its training data with licence and citation."""
    splits = model.facts.get("metrics", {}).get("splits", {})
    reported = {name: splits[name] for name in ("test", "external") if name in splits}
    parts = [_table(reported)] if reported else []
    if sets := model.facts.get("environment", {}).get("data_sources", []):
        parts.append(f"<p>Learned from:</p><ul>{''.join(map(_citation, sets))}</ul>")
    if model.source.revision:
        address = f"https://huggingface.co/{model.source.model}/tree/{model.source.revision}"
        parts.append(f"<p>{_link(address, f'{model.source.model}: the model card')}</p>")
    return "".join(parts) or "<p>This model carries no figures.</p>"


def results_html(model: Served) -> str:
    """Which recipe it is, its facts and its figures."""
    recipe = model.facts.get("recipe", {})
    name = html.escape(", ".join(recipe[key] for key in ("name", "backbone") if recipe.get(key)) or model.task)
    images = ""
    for figure, title in FIGURES.items():
        if content := read_figure(model.source, figure):
            image = f'<img src="{data_address(content)}" alt="{title}">'
            images += f"<figure>{image}<figcaption>{title}</figcaption></figure>"
    return f'<h3>{name}</h3>{facts_html(model)}<div class="cxr-figures">{images}</div>'


def _table(splits: dict[str, Any]) -> str:
    measured = next(iter(splits.values()))["metrics"]
    names = [name for name in METRICS if name in measured]
    head = "".join(f'<th scope="col">{METRICS[name]}</th>' for name in names)
    rows = ""
    for split, report in splits.items():
        cells = "".join(f"<td>{metric_text(report['metrics'].get(name))}</td>" for name in names)
        rows += f'<tr><th scope="row">{split}, n = {report["n"]}</th>{cells}</tr>'
    caption = "<caption>Metrics with 95 % intervals</caption>"
    return f"<table>{caption}<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _citation(data: dict[str, Any]) -> str:
    title = _link(data["page"], data["title"])
    return f"<li>{title}. Licence: {html.escape(data['licence'])}. {html.escape(data['citation'])}</li>"


def _link(address: str, text: str) -> str:
    if not address.startswith("https://"):
        return html.escape(text)
    return f'<a href="{html.escape(address)}" target="_blank" rel="noopener">{html.escape(text)}</a>'
